'use strict';
/* Keeps what says "dev" in place, whatever the page does with its title and body. */
(() => {
  const picker = {{picker}};
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
