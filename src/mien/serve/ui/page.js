/* What Gradio does not do by itself: the talk keeps its end in view, Escape stops or goes back, focus goes where the eye does. */
"use strict";
(() => {
  const byId = id => document.getElementById(id);
  const seen = element => element && element.offsetParent !== null;
  let following = true;

  /* A reader who has scrolled up is left where they are. */
  document.addEventListener("scroll", event => {
    const talk = event.target;
    if (talk.id === "talk") following = talk.scrollHeight - talk.scrollTop - talk.clientHeight < 60;
  }, true);
  const toEnd = () => { const talk = byId("talk"); if (talk && following) talk.scrollTop = talk.scrollHeight; };

  document.addEventListener("keydown", event => {
    if (event.key !== "Escape" || event.defaultPrevented) return;
    for (const id of ["stop", "back"]) {
      if (seen(byId(id))) { byId(id).click(); return; }
    }
  });

  let inHistory = false, writing = false;
  const follow = () => {
    toEnd();
    const heading = byId("history-heading"), message = document.querySelector("#message textarea");
    const history = Boolean(seen(heading)), stop = Boolean(seen(byId("stop")));
    if (history && !inHistory) { window.scrollTo(0, 0); heading.focus(); }
    if (!history && inHistory && message) { following = true; toEnd(); message.focus(); }
    /* Send and Stop take turns in one place; whoever pressed one goes on in the message. */
    if (stop !== writing && message && document.activeElement === document.body) message.focus();
    if (stop && !writing) { following = true; toEnd(); }
    byId("talk")?.setAttribute("aria-busy", stop);
    inHistory = history; writing = stop;
  };
  const label = () => {
    for (const [id, name] of [["talk", "Conversation"], ["right", "Readings"]]) {
      const element = byId(id);
      if (!element || element.hasAttribute("role")) continue;
      element.setAttribute("role", id === "talk" ? "log" : "complementary");
      element.setAttribute("aria-label", name);
      element.tabIndex = 0; /* scrolled by keyboard */
    }
  };
  let due = false;
  new MutationObserver(() => {
    if (due) return;
    due = true;
    requestAnimationFrame(() => { due = false; label(); follow(); });
  }).observe(document.documentElement, { childList: true, subtree: true, characterData: true });
})();
