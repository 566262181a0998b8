"use strict";
// Runs JavaScript inside a sandbox and keeps its variables between calls. Node.js 20 or newer, nothing installed.
//
// guest/kernel.py starts it, as `node kernel.js <fd of requests> <fd of replies>`, and speaks to the client: it owns
// standard output and error, the order of runs, and what can be asked for again. JSON lines go over the two descriptors:
//
//     requests  {"op": "run", "cell": "cell-1", "code": ...}      {"op": "interrupt", "cell": "cell-1"}
//     replies   {"ev": "result", "forms": {mime: text, or base64 of an image}}
//               {"ev": "done", "cell": "cell-1"}, or with "error": {"name": ..., "message": ..., "stack": ...}
//
// The main thread runs user code, through the inspector: as in the console of a browser, `await` works at the top
// level and `const` can be declared again. A worker thread takes the requests. Code that does not let the main thread
// look at an interrupt for a moment is terminated there, again and again until it is over: Node.js loses a termination
// that comes while it writes output. Variables are kept in either case. Work that was started and not awaited, such as
// timers, goes on; Node.js must not check the order of its asynchronous contexts (--no-force-async-hooks-checks), or it
// would end when a callback of a timer is terminated.
//
// Each run starts with new output streams, whatever the last one, or its termination, did to them.

const fs = require("node:fs");
const inspector = require("node:inspector");
const module_ = require("node:module");
const net = require("node:net");
const path = require("node:path");
const stream = require("node:stream");
const url = require("node:url");
const util = require("node:util");
const v8 = require("node:v8");
const vm = require("node:vm");
const { Worker, isMainThread, parentPort, workerData } = require("node:worker_threads");

// What this program uses while it answers: user code may replace the global ones.
const { Buffer, Error, Object, Promise, Set, String } = globalThis;
const { stringify } = JSON;
const { writeSync } = fs;
const { inspect } = util;

const LOOK_MS = 100; // the time that the main thread has to look at an interrupt
const FULL_MS = 5; // before another try to write to a pipe that is full and does not block
const never = new Int32Array(new SharedArrayBuffer(4));
const MAX_TEXT_CHARS = 4 * 1024 * 1024; // of a string in a result; the kernel cuts it further
const MAX_KEPT_PROMISES = 4; // the run's own is among the first
const INSPECT = { depth: 4, maxArrayLength: 1000, maxStringLength: MAX_TEXT_CHARS, breakLength: 100 };
const DISPLAY = Symbol.for("Jupyter.display"); // as in Deno: an object's own forms

// Strings, comments and templates, so that what looks like an import in them is left alone; then imports.
const SKIPPED = /\/\/.*|\/\*[^]*?\*\/|'(?:\\[^]|[^'\\\n])*'|"(?:\\[^]|[^"\\\n])*"|`(?:\\[^]|[^`\\])*`/;
const STATIC = /(?<![\w$.])import\s+(?:([\w$*{}\s,]+?)\s+from\s+)?(['"])(.+?)\2(?:\s+(?:with|assert)\s*\{[^}]*\})?/;
const DYNAMIC = /(?<![\w$.])import\s*(?=\()/;
const IMPORTS = new RegExp(`${STATIC.source}|(${SKIPPED.source})|(${DYNAMIC.source})`, "g");

const OWN_FRAME = new RegExp(`^\\s+at .*(node:inspector|node:internal|node:events|${path.basename(__filename)})`);

function main() {
  const [requests, replies] = process.argv.splice(2).map(Number);
  const looked = new Int32Array(new SharedArrayBuffer(4));
  const reply = (event) => writeAll(replies, Buffer.from(stringify(event) + "\n"));
  const runner = new Runner(reply);
  setUpGlobals((value) => reply({ ev: "result", forms: formsOf(value) }));
  const watcher = new Worker(__filename, { workerData: { requests, looked } });
  watcher.on("message", (request) => {
    if (request.op === "run") {
      runner.run(request);
    } else {
      runner.interrupt(request);
      Atomics.add(looked, 0, 1);
    }
  });
  watcher.on("exit", () => process.reallyExit(0));
}

// The worker thread.
function watch() {
  const { requests, looked } = workerData;
  const session = new inspector.Session();
  session.connectToMainThread();
  let rest = "";
  const socket = new net.Socket({ fd: requests, readable: true, writable: false });
  socket.setEncoding("utf8");
  socket.on("data", (data) => {
    const lines = (rest + data).split("\n");
    rest = lines.pop();
    for (const line of lines) take(JSON.parse(line));
  });
  socket.on("end", () => process.kill(process.pid, "SIGKILL")); // whatever the main thread is doing

  function take(request) {
    const before = Atomics.load(looked, 0);
    parentPort.postMessage(request);
    if (request.op !== "interrupt") return;
    const again = setInterval(() => {
      if (Atomics.load(looked, 0) !== before) return clearInterval(again);
      session.post("Runtime.terminateExecution");
      parentPort.postMessage(request); // the look itself may have been terminated
    }, LOOK_MS);
  }
}

class Runner {
  constructor(reply) {
    this.reply = reply;
    this.session = new inspector.Session();
    this.session.connect();
    this.held = undefined;
    this.cell = undefined;
    this.stop = undefined;
    this.kept = new Set();
    Object.defineProperty(globalThis, "__holder", { value: this, configurable: true });
    this.session.post("Runtime.evaluate", { expression: "__holder" }, (_, answer) => {
      this.holderId = answer.result.objectId;
    });
    delete globalThis.__holder;
  }

  async run({ cell, code }) {
    this.cell = cell;
    let outcome;
    try {
      setUpOutput();
      const answered = new Promise((resolve) => (this.stop = resolve)); // not around the call: it would be in every stack
      this.evaluate(code);
      const answer = await answered;
      this.stop = undefined;
      outcome = answer && this.conclude(answer);
    } catch (error) {
      outcome = { error: describe(error) }; // user code broke what this program needs
    }
    this.end(outcome);
  }

  interrupt({ cell }) {
    if (cell !== this.cell) return;
    if (this.stop) this.stop(undefined);
    else this.end(undefined); // what it said of its result was terminated
  }

  // Have the inspector's answer passed to `stop`; undefined when the code was terminated.
  evaluate(code) {
    const { cell, stop } = this;
    const expression = `${withoutStaticImports(code)}\n//# sourceURL=${cell}`;
    const options = { expression, replMode: true, awaitPromise: true, objectGroup: "run" };
    const kept = [];
    this.kept.add(kept); // of a run that awaits what never comes: Node.js 22 and 24 would abort when they collect it
    const stopKeeping = v8.promiseHooks.onInit((promise) => kept.length < MAX_KEPT_PROMISES && kept.push(promise));
    this.session.post("Runtime.evaluate", options, (error, answer) => {
      this.kept.delete(kept);
      stop(error ? undefined : answer);
    });
    stopKeeping();
  }

  // Show the result; what ended the run, for `end`.
  conclude({ exceptionDetails, result }) {
    if (exceptionDetails) return { error: describe(this.valueOf(exceptionDetails.exception)) };
    if (result.type === "undefined") return {};
    const value = this.valueOf(result);
    attempt(() => (globalThis._ = value)); // it may be frozen
    this.reply({ ev: "result", forms: formsOf(value) });
    return {};
  }

  end(outcome = { error: { name: "Interrupted", message: "The code was interrupted.", stack: "" } }) {
    this.reply({ ev: "done", cell: this.cell, ...outcome });
    this.cell = undefined;
  }

  valueOf({ objectId, unserializableValue, value }) {
    const argument = objectId ? { objectId } : unserializableValue ? { unserializableValue } : { value };
    this.session.post("Runtime.callFunctionOn", {
      objectId: this.holderId,
      functionDeclaration: "function (value) { this.held = value; }",
      arguments: [argument],
    });
    this.session.post("Runtime.releaseObjectGroup", { objectGroup: "run" });
    const held = this.held;
    this.held = undefined;
    return held;
  }
}

// Only modules have `import` statements; here each becomes an `await` of what `import()` does.
function withoutStaticImports(code) {
  return code.replace(IMPORTS, (all, names, quote, from, skipped, dynamic) => {
    if (skipped) return all;
    if (dynamic) return "__import";
    const loaded = `await __import(${JSON.stringify(from)})`;
    if (names === undefined) return `${loaded};`;
    const [, first, others] = /^([\w$]+)?\s*,?\s*([^]*)$/.exec(names.trim());
    const parts = [];
    if (first) parts.push(`{default: ${first}} = ${loaded}`);
    const whole = /^\*\s*as\s+([\w$]+)$/.exec(others);
    if (whole) parts.push(`${whole[1]} = ${loaded}`);
    else if (others) parts.push(`${others.replace(/([\w$]+)\s+as\s+/g, "$1: ")} = ${loaded}`);
    return `const ${parts.join(", ")};`;
  });
}

function setUpGlobals(display) {
  const here = path.join(process.cwd(), "cell.js"); // modules are looked for from the working directory
  const warn = process.emitWarning;
  process.emitWarning = (warning, ...rest) => {
    if (!String(warning).includes("USE_MAIN_CONTEXT_DEFAULT_LOADER")) warn.call(process, warning, ...rest);
  };
  const require = module_.createRequire(here);
  const resolved = (from) => (path.isAbsolute(from) || /^\.\.?\//.test(from) ? url.pathToFileURL(require.resolve(from)).href : from);
  const script = new vm.Script("(from) => import(from)", {
    filename: here,
    // Node.js before 20.12 finds installed modules only through `require`.
    importModuleDynamically: (vm.constants || {}).USE_MAIN_CONTEXT_DEFAULT_LOADER || ((from) => import(resolved(from))),
  });
  const load = script.runInThisContext();
  const hidden = { display, require, module: { exports: {} }, exports: {}, __import: load };
  hidden.__filename = here;
  hidden.__dirname = path.dirname(here);
  for (const [name, value] of Object.entries(hidden)) {
    Object.defineProperty(globalThis, name, { value, writable: true, configurable: true });
  }
  process.exit = (code) => {
    throw Object.assign(new Error(`process.exit(${code === undefined ? "" : code}) ends nothing here.`), { name: "Exit" });
  };
  process.on("SIGINT", () => {}); // the client's interrupt comes as a request
  process.on("uncaughtException", (error) => console.error(`Uncaught ${describe(error).stack}`));
}

// A standard stream that is never in the middle of something, as the ones of Node.js are when they are terminated.
class Output extends stream.Writable {
  constructor(fd) {
    super({ decodeStrings: true });
    this.fd = fd;
  }

  _write(data, _, done) {
    writeAll(this.fd, data);
    done();
  }
}

function setUpOutput() {
  for (const [name, fd] of [["stdout", 1], ["stderr", 2]]) {
    const value = new Output(fd);
    Object.defineProperty(process, name, { value, writable: true, enumerable: true, configurable: true });
    console[`_${name}`] = value;
  }
}

function formsOf(value) {
  try {
    if (value && typeof value[DISPLAY] === "function") return formsOfItsOwn(value);
    const image = imageTypeOf(value);
    if (image) return { "text/plain": textOf(value), [image]: Buffer.from(value).toString("base64") };
  } catch {
    // The object's own code failed: it is shown as any other.
  }
  return { "text/plain": textOf(value) };
}

function formsOfItsOwn(value) {
  const forms = { "text/plain": textOf(value) };
  for (const [mime, form] of Object.entries(value[DISPLAY]())) {
    const isOne = mime === "application/json" ? attempt(() => stringify(form)) : typeof form === "string";
    if (isOne) forms[mime] = form;
  }
  return forms;
}

function textOf(value) {
  return attempt(() => inspect(value, INSPECT).slice(0, MAX_TEXT_CHARS), `<${typeof value}: it cannot be shown>`);
}

function imageTypeOf(value) {
  if (!(value instanceof Uint8Array)) return undefined;
  const start = Buffer.from(value.subarray(0, 4)).toString("hex");
  return start === "89504e47" ? "image/png" : start.startsWith("ffd8ff") ? "image/jpeg" : undefined;
}

function describe(error) {
  if (!attempt(() => error instanceof Error || util.types.isNativeError(error))) {
    const text = textOf(error);
    return { name: "Uncaught", message: text, stack: `Uncaught ${text}` };
  }
  const name = attempt(() => String(error.name), "Error");
  const message = attempt(() => String(error.message), "");
  const stack = attempt(() => String(error.stack), `${name}: ${message}`).split("\n");
  return { name, message, stack: stack.filter((line) => !OWN_FRAME.test(line)).join("\n") };
}

// What a function of the user returns; `otherwise` when it throws.
function attempt(get, otherwise) {
  try {
    return get();
  } catch {
    return otherwise;
  }
}

function writeAll(fd, data) {
  for (let written = 0; written < data.length; ) {
    try {
      written += writeSync(fd, data, written);
    } catch (error) {
      if (error.code !== "EAGAIN") throw error; // a child process with the same descriptor may have made it so
      Atomics.wait(never, 0, 0, FULL_MS);
    }
  }
}

if (isMainThread) main();
else watch();
