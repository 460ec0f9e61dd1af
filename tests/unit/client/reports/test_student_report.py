"""A student's report: its numbers, what it may not name, and a browser."""

import csv
import json
import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from moma_client.cli.main import main
from moma_client.config.site import SiteConfig
from tests.support.machine.needs import needs_program
from tests.support.site.reported_site import CLASSES, NAMES, reported_site

_WORDS = ("report", "--site")


class _Page(HTMLParser):
    """Notes numbers by their key, addresses, tags and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.numbers: dict[str, float] = {}
        self.addresses: list[str] = []
        self.tags: set[str] = set()
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.tags.add(tag)
        if tag == "data" and found["data-key"]:
            self.numbers[found["data-key"]] = float(found["value"])
        for name in ("src", "href", "xlink:href"):
            if name in found:
                self.addresses.append(found[name])

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    reported_site(folder)
    return folder / "config.yaml"


@pytest.fixture(scope="module")
def report(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "report"
    assert main([*_WORDS, str(site), "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def page(report: Path) -> _Page:
    return _Page((report / "report.html").read_text("utf-8"))


def test_its_numbers_are_those_of_evaluate(
    site: Path, report: Path, page: _Page, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", "--site", str(site), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    for student in found.values():
        del student["details"]["weights"]

    expected = {
        f"{method}.{key}": value
        for method, student in found.items()
        for key, value in student.items()
        if isinstance(value, float) and not key.endswith("_kappa")
    }

    shown = {k: v for k, v in page.numbers.items() if not k.startswith("temperature.")}
    assert shown == expected
    assert len(expected) == 2 * 2 * (5 + len(CLASSES))
    assert json.loads((report / "report.json").read_text())["students"] == found


def test_it_names_no_patient_slide_or_file(report: Path) -> None:
    for file in report.iterdir():
        content = file.read_bytes().decode(errors="ignore").lower()
        assert not [name for name in NAMES if name.lower() in content], file.name


def test_it_needs_nothing_from_elsewhere_and_runs_nothing(page: _Page) -> None:
    outside = [each for each in page.addresses if not each.startswith(("#", "data:"))]

    assert outside == []
    assert page.tags.isdisjoint({"script", "link", "iframe", "object", "embed"})


def test_names_of_classes_are_text_and_nothing_else(page: _Page) -> None:
    assert CLASSES[1] in page.text
    assert "<3>" in page.text


def test_it_says_what_was_trained_from_whom_and_on_which_terms(page: _Page) -> None:
    text = " ".join(page.text.split())

    assert "Site site-a trained a small network" in text
    assert "ce learned from the labels alone" in text
    assert "CC-BY-NC-4.0" in text
    assert "for research alone" in text
    assert "It was not validated for diagnosis" in text
    assert "in the order of the grades" in text
    assert "95 % intervals by a bootstrap over patients" in text


def test_every_class_has_a_sentence_with_its_conclusion(page: _Page) -> None:
    for name in CLASSES:
        assert re.search(
            rf"({re.escape(name)} (may be|is not to be) relied on|"
            rf"Whether {re.escape(name)} may be relied on cannot be said): ",
            page.text,
        )


def test_every_chart_is_there_as_a_picture_too(report: Path, page: _Page) -> None:
    drawn = {path.stem for path in report.glob("*.png")}

    assert drawn >= {
        "confusion-moma-unseen",
        "reliability-moma-unseen",
        "students-unseen",
        "loss-classification",
        "loss-contrastive",
        "accuracy-against-outputs",
        "map-by-class",
        "map-by-split",
        "map-by-slide",
    }
    assert "loss-distillation" not in drawn  # it was 0 all the time
    html = (report / "report.html").read_text("utf-8")
    assert html.count("<svg") == len(drawn)


def test_patches_are_shown_only_where_they_are_asked_for(
    site: Path, tmp_path: Path
) -> None:
    out = tmp_path / "report"

    assert main([*_WORDS, str(site), "--out", str(out), "--with-patches"]) == 0

    text = (out / "report.html").read_text("utf-8")
    assert "Does not leave the site" in text
    assert text.count("data:image/png;base64,") == len(
        re.findall(r"<br>called <strong>", text)
    )
    assert "secretfile-unseen-" in text
    assert "patient Meier-unseen-" in text


def test_it_says_whether_the_centre_can_be_told(report: Path, page: _Page) -> None:
    numbers = json.loads((report / "report.json").read_text())

    assert numbers["leak"]["centre"]["chance"] == 0.5
    assert numbers["leak"]["centre"]["groups"] == 13  # validation and unseen patients
    text = " ".join(page.text.split())
    assert "its centre is told rightly in" in text
    assert "The same, by centre" in text
    assert (report / "map-by-centre.png").is_file()


def test_a_folder_that_holds_something_is_refused(
    site: Path, report: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert main([*_WORDS, str(site), "--out", str(report)]) == 1

    assert "is not empty" in caplog.text


def test_a_student_alone_is_reported_without_a_comparison(tmp_path: Path) -> None:
    config: SiteConfig = reported_site(tmp_path)
    for file in (config.state_dir / "runs").glob("*/ce/*"):
        file.unlink()
    out = tmp_path / "report"

    assert main([*_WORDS, str(tmp_path / "config.yaml"), "--out", str(out)]) == 0

    assert "No other student was trained" in (out / "report.html").read_text("utf-8")


def test_where_the_first_round_asked_all_it_is_said_and_not_drawn(
    tmp_path: Path,
) -> None:
    config = reported_site(tmp_path)
    (record,) = (config.state_dir / "runs").glob("*/figures.jsonl")
    lines = map(json.loads, record.read_text().splitlines())
    record.write_text("\n".join(json.dumps({**line, "asked": 432}) for line in lines))
    out = tmp_path / "report"

    assert main([*_WORDS, str(tmp_path / "config.yaml"), "--out", str(out)]) == 0

    assert not (out / "accuracy-against-outputs.png").exists()
    text = (out / "report.html").read_text("utf-8")
    assert "The first round asked the teacher for all 432 outputs" in text


def test_a_run_is_named_once_and_a_rising_contrast_is_explained(page: _Page) -> None:
    text = " ".join(page.text.split())

    assert "Run run-1" not in text
    assert "run-1 in the federation" in text
    assert "It may rise while the student learns" in text


def test_each_table_scrolls_below_a_shade_and_stays_with_its_caption_on_paper(
    report: Path,
) -> None:
    html = (report / "report.html").read_text("utf-8")

    assert html.count("<table") == html.count('<div class="wide"><table') > 5
    assert "background-attachment: local, local, scroll, scroll" in html
    assert "h2, h3, p.caption { break-after: avoid;" in html


def _without_columns(manifest: Path, names: set[str]) -> None:
    with manifest.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    kept = [name for name in rows[0] if name not in names]
    with manifest.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, kept, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def test_where_no_patient_is_named_nothing_is_said_of_patients(tmp_path: Path) -> None:
    reported_site(tmp_path)
    manifest = tmp_path / "patches" / "manifest.csv"
    _without_columns(manifest, {"patient_id", "slide_id"})
    out = tmp_path / "report"

    assert main([*_WORDS, str(tmp_path / "config.yaml"), "--out", str(out)]) == 0

    text = " ".join(_Page((out / "report.html").read_text("utf-8")).text.split())
    for claim in ("other patients", "different patients", "Patients are drawn"):
        assert claim not in text
    assert "By its nearest patches of the same class, whether a patch is of" in text
    assert "Patches are drawn anew a thousand times; 95 of 100" in text
    assert "One patient may then be in both the training and the unseen" in text
    assert "expect other figures from another scanner" not in text


@pytest.mark.parametrize("share", ["0", "1", "nan", "much"])
def test_a_threshold_that_is_no_share_is_wrong_usage(share: str, site: Path) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([*_WORDS, str(site), "--out", "x", "--threshold", share])


def _chromium(folder: Path, *words: str) -> str:
    (program,) = needs_program("chromium")
    ended = subprocess.run(
        [
            *(str(program), "--headless", "--no-sandbox", "--disable-gpu"),
            *("--hide-scrollbars", "--allow-file-access-from-files"),
            *(f"--user-data-dir={folder / 'profile'}", *words),
        ],
        capture_output=True,
        text=True,
        timeout=200,
        check=True,
    )
    return ended.stdout


@pytest.mark.parametrize(
    ("words", "is_dark"),
    [
        ((), False),
        (("--force-dark-mode", "--blink-settings=preferredColorScheme=0"), True),
    ],
)
def test_a_browser_shows_it_in_light_and_in_dark(
    tmp_path: Path, report: Path, words: tuple[str, ...], is_dark: bool
) -> None:
    shot, address = tmp_path / "shot.png", (report / "report.html").as_uri()

    _chromium(
        tmp_path, *words, "--window-size=1280,3000", f"--screenshot={shot}", address
    )

    with Image.open(shot) as picture:
        grey = picture.convert("L")
        corner = grey.getpixel((5, 5))
        assert isinstance(corner, int)
        assert (corner < 60) == is_dark
        dark, light = grey.getextrema()
        assert isinstance(dark, int)
        assert isinstance(light, int)
        assert light - dark > 150  # something is written there


def test_no_part_of_it_is_wider_than_a_telephone(tmp_path: Path, report: Path) -> None:
    frame = tmp_path / "frame.html"
    frame.write_text(
        f"""<iframe src="{(report / "report.html").as_uri()}" width="390" height="900"
        onload="document.title =
        'width ' + this.contentDocument.documentElement.scrollWidth"></iframe>"""
    )

    shown = _chromium(tmp_path, "--dump-dom", frame.as_uri())

    found = re.search(r"<title>width (\d+)</title>", shown)
    assert found is not None
    assert int(found[1]) <= 390


def test_it_can_be_printed(tmp_path: Path, report: Path) -> None:
    paper, address = tmp_path / "report.pdf", (report / "report.html").as_uri()

    _chromium(tmp_path, f"--print-to-pdf={paper}", address)

    assert paper.read_bytes().startswith(b"%PDF")
    assert paper.stat().st_size > 50_000
