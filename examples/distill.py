"""Distils a teacher into students with few labels, and says how good each is.

    python examples/distill.py                                         # a minute or two
    python examples/distill.py --teacher teacher/ --patches patches/   # your own

Without arguments it cuts patches out of a picture of tissue that comes with
scikit-image, and trains the teacher first: a smoke test, not a result.
"""

import argparse
from typing import Any

import moma_core as moma

LITE0 = "tf_efficientnet_lite0"  # a Python package carries its ImageNet weights
TISSUE = {"kind": "embedded", "part": "site-a", "keep_labelled": 8}
TRAINING = moma.TrainingSettings(batch_size=32, learning_rate=0.02, warmup_steps=10)


def main() -> None:
    """Prints the macro-F1 on unseen patches of students without and with a teacher."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--teacher", help="a folder with card.json and its weights")
    parser.add_argument("--patches", help="a folder, a manifest.csv or an .npz file")
    parser.add_argument("--student", help="a timm name; its weights come from a hub")
    parser.add_argument("--epochs", type=int, default=10)
    arguments = parser.parse_args()
    if bool(arguments.teacher) != bool(arguments.patches):
        parser.error("--teacher and --patches go together")
    options = {"training": TRAINING, "epochs": arguments.epochs}

    if arguments.patches:
        source = moma.open_source(arguments.patches)
        teacher = moma.FrozenTeacher.load(arguments.teacher)
    else:
        options["views"] = "geometry_only"  # the classes of this tissue are colours
        source, teacher = moma.open_source(TISSUE), train_teacher(options)
    for method in ("ce", "kd", "moma"):
        network = arguments.student or new_network(source)
        student = moma.distill(teacher, source, network, method=method, **options)
        print(method, moma.evaluate(student, source, "unseen").figures["macro_f1"])


def train_teacher(options: dict[str, Any]) -> moma.FrozenTeacher:
    """Returns a teacher that learned from all labels of another institution."""
    source = moma.open_source({"kind": "embedded", "part": "teacher"})
    network = new_network(source)
    moma.distill(None, source, network, method="ce", **options)
    print("teacher", moma.evaluate(network, source, "unseen").figures["macro_f1"])
    return moma.FrozenTeacher.of(network, source.class_names)


def new_network(source: moma.PatchSource) -> moma.Backbone:
    """Returns what starts from ImageNet, on patches enlarged to 48 pixels."""
    classes = len(source.class_names)
    return moma.Backbone.create(LITE0, classes, "packaged", view_size_px=48)


if __name__ == "__main__":
    main()
