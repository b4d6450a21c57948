'use strict';
/* Keeps what says "dev" in place, whatever the page does with its title and body. */
(() => {
  const picker = {{picker}};
  const base = {{base}};
  const userId = {{user_id}};
  /* A session that somebody else left in the browser is exchanged for that of whoever is picked. */
  try {
    const stored = localStorage.getItem(`Meteor.userId${base ? `:/:${base}` : ''}`);
    const ownPages = picker.slice(0, picker.lastIndexOf('/') + 1);
    if (userId && stored && stored !== userId && !location.pathname.startsWith(ownPages)) {
      location.replace(`${picker}?become&return=${encodeURIComponent(location.href)}`);
    }
  } catch {
    /* No storage, no session. */
  }
  const bar = document.createElement('gantry-dev-bar');
  const link = document.createElement('a');
  link.href = picker;
  link.textContent = 'switch user';
  /* A frame's page is left where it is. */
  if (window !== window.parent) link.target = '_blank';
  bar.append(link);
  const keep = () => {
    if (!document.title.startsWith('[dev] ')) document.title = `[dev] ${document.title}`;
    if (!bar.isConnected) document.documentElement.append(bar);
  };
  keep();
  new MutationObserver(keep).observe(document.documentElement, { childList: true, subtree: true, characterData: true });
})();
