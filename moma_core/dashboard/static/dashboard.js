// Renews the parts of the page that have changed; without it the page reloads as a whole.
"use strict";

(() => {
  const seconds = Number(document.body.dataset.refreshSeconds);
  const state = document.getElementById("state");
  const spoken = document.getElementById("spoken");
  const pause = document.getElementById("pause");
  let isPaused = false;
  let timer = 0;

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

  // Parts come with the run, and go: each one that is there can be reached.
  function link() {
    const links = [...document.querySelectorAll("main section")].map((part) => {
      const item = document.createElement("li");
      const to = item.appendChild(document.createElement("a"));
      [to.href, to.id] = [`#${part.id}`, `to-${part.id}`];
      to.textContent = part.querySelector("h2").textContent;
      return item;
    });
    document.querySelector("nav ul").replaceChildren(...links);
  }

  function renew(text) {
    const fresh = new DOMParser().parseFromString(text, "text/html").body;
    const main = document.getElementById("content");
    const said = document.getElementById("alerts").dataset.sentence;
    const ids = (node) => [...node.children].map((one) => one.id).join(" ");
    keepPlace(() => {
      if (ids(fresh) !== ids(main)) {
        main.replaceChildren(...fresh.children);
        link();
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
    if (isBad) spoken.textContent = text;
    state.textContent = text;
    state.className = isBad ? "bad" : "";
  }

  function sayOld(why) {
    const made = document.querySelector("#made time").textContent;
    say(`${why}: what is shown is of ${made}.`, true);
  }

  function sayNew() {
    const text = `Renewed every ${seconds} seconds.`;
    if (state.className === "bad") spoken.textContent = `The program answers. ${text}`;
    say(text, false);
  }

  async function ask() {
    clearTimeout(timer);
    if (!isPaused && !document.hidden) {
      try {
        const answer = await fetch("fragment", { signal: AbortSignal.timeout(10000) });
        if (answer.status === 401) { // another token; asking on would shut this address out
          sayOld("The token is another one now, load the page again");
          return;
        }
        if (!answer.ok) throw new Error(String(answer.status));
        renew(await answer.text());
        if (!isPaused) sayNew();
      } catch {
        if (!isPaused) sayOld("The program does not answer");
      }
    }
    later();
  }

  function later() {
    clearTimeout(timer);
    timer = setTimeout(ask, seconds * 1000);
  }

  pause.hidden = false;
  pause.addEventListener("click", () => {
    isPaused = !isPaused;
    pause.textContent = isPaused ? "Go on" : "Pause";
    say(isPaused ? "Paused: nothing is renewed." : `Renewed every ${seconds} seconds.`, false);
    if (!isPaused) ask();
  });
  document.addEventListener("visibilitychange", ask); // who comes back sees no old page
  later();
})();
