// Renews the parts of the page that have changed; without it the page reloads as a whole.
"use strict";

(() => {
  const seconds = Number(document.body.dataset.refreshSeconds);
  const state = document.getElementById("state");
  const spoken = document.getElementById("spoken");
  const pause = document.getElementById("pause");
  let isPaused = false;

  // The element with the focus is named by its id, and where the table was scrolled to.
  function keepPlace(change) {
    const focus = document.activeElement?.id;
    const scrolled = new Map(
      [...document.querySelectorAll(".wide")].map((one) => [one.id, one.scrollLeft]));
    change();
    for (const [id, left] of scrolled) {
      const one = document.getElementById(id);
      if (one) one.scrollLeft = left;
    }
    const again = focus && document.getElementById(focus);
    if (again && again !== document.activeElement) again.focus({ preventScroll: true });
  }

  function renew(text) {
    const fresh = new DOMParser().parseFromString(text, "text/html").body;
    const main = document.getElementById("content");
    const said = document.getElementById("alerts").dataset.sentence;
    const ids = (node) => [...node.children].map((one) => one.id).join(" ");
    keepPlace(() => {
      if (ids(fresh) !== ids(main)) {
        main.replaceChildren(...fresh.children);
        return;
      }
      for (const part of [...fresh.children]) {
        const old = document.getElementById(part.id);
        if (old.outerHTML !== part.outerHTML) old.replaceWith(part);
      }
    });
    const now = document.getElementById("alerts").dataset.sentence;
    if (now !== said) spoken.textContent = now; // only what has changed is read out
  }

  function say(text, isBad) {
    if (state.textContent === text) return;
    state.textContent = text;
    state.className = isBad ? "bad" : "";
    if (isBad) spoken.textContent = text;
  }

  async function ask() {
    if (!isPaused && !document.hidden) {
      try {
        const answer = await fetch("fragment", { signal: AbortSignal.timeout(10000) });
        if (!answer.ok) throw new Error(String(answer.status));
        renew(await answer.text());
        if (!isPaused) say(`Renewed every ${seconds} seconds.`, false);
      } catch {
        say("The program does not answer: what is shown is old.", true);
      }
    }
    setTimeout(ask, seconds * 1000);
  }

  pause.hidden = false;
  pause.addEventListener("click", () => {
    isPaused = !isPaused;
    pause.textContent = isPaused ? "Go on" : "Pause";
    say(isPaused ? "Paused: nothing is renewed." : `Renewed every ${seconds} seconds.`, false);
  });
  setTimeout(ask, seconds * 1000);
})();
