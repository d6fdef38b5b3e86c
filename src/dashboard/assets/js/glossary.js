// Owns the words of a lattice and what they mean. README has the same table; a test compares the two.

/** Word and explanation, in the order in which they build on each other. */
export const GLOSSARY = {
  lattice: "All hosts that share one name on one NATS network. What runs on any of them can be called from all.",
  host: "A process that runs actors and providers. A machine usually has one.",
  actor: "A signed WebAssembly module that answers calls. It has no state, so any host can run it, also several at once.",
  replica: "One call that an actor may work on at a time on its host; with more replicas it takes more calls at once.",
  provider: "What gives actors a capability, such as HTTP or a key-value store. It is built in, or a process of its own.",
  contract: "The name of a capability, such as wasmcloud:httpserver. An actor uses it, and a provider fulfils it.",
  claim: "What the signature of an actor or a provider says: who signed it, its version, and which contracts it may use.",
  "link definition": "The permission for one actor to use one provider by one contract, with the settings for this actor.",
  constraint: "A label that a host must have for something to start on it.",
  "cluster seed": "The secret key that all hosts of a lattice share. A host takes calls only from hosts that have it.",
  "leaf node": "A NATS server that is connected to another one as its branch, so that a machine has a server of its own.",
  "JetStream domain": "The name of the NATS servers that keep the links and claims of a lattice on disk.",
};
