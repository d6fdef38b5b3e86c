// Owns document.title.
import { useEffect } from "../vendor/htm-preact.js";
import { useLive } from "./live.js";

/** Sets document.title: "calm-otter-0042 · Hosts · default lattice". Without a part it leaves the title alone. */
export function useTitle(...parts) {
  const lattice = useLive((state) => state.hello?.lattice);
  const shown = parts.filter(Boolean);
  const text = [...shown, lattice ? `${lattice} lattice` : "lattice"].join(" · ");
  useEffect(() => {
    if (shown.length) document.title = text;
  }, [text]);
}
