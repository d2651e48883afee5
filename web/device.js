/** The device and its network, as far as the browser tells. */

/** What a session is told at its beginning. @param {HTMLVideoElement} video */
export function circumstances(video) {
  const { connection } = navigator;
  return {
    device: deviceKind(),
    viewport: viewportOf(video),
    connection: connection?.type ?? connection?.effectiveType,
    save_data: savesData(),
  };
}

/** The picture's size in device pixels. @param {HTMLVideoElement} video @returns {[number, number]} */
export function viewportOf(video) {
  const scale = window.devicePixelRatio || 1;
  return [Math.round(video.clientWidth * scale), Math.round(video.clientHeight * scale)];
}

export function savesData() {
  return navigator.connection?.saveData ?? false;
}

function deviceKind() {
  if (!matchMedia("(pointer: coarse)").matches) return "desktop";
  return Math.min(screen.width, screen.height) < 600 ? "phone" : "tablet";
}
