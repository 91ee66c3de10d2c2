// Reloads the page once a minute, while somebody looks at it.
const intervalMs = 60 * 1000;
let timer = null;

function schedule() {
  clearTimeout(timer);
  if (!document.hidden) {
    timer = setTimeout(() => location.reload(), intervalMs);
  }
}

document.addEventListener("visibilitychange", schedule);
schedule();
