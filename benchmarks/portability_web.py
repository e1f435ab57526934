"""onnxruntime-web in headless Chromium, for `portability.py`: one page, served to it alone."""

import functools
import http.server
import json
import sys
import tempfile
import threading
from pathlib import Path

import portability_forms as forms

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests" / "helpers"))
CODE = """(async () => {
  const ort = await import("/node_modules/onnxruntime-web/dist/ort.wasm.min.mjs");
  const { answer } = await import("/answer.mjs");
  ort.env.wasm.numThreads = 1;
  ort.env.logLevel = "fatal";
  const job = (await (await fetch("/jobs.json")).json())[NUMBER];
  const model = new Uint8Array(await (await fetch("/model/NUMBER")).arrayBuffer());
  return await answer(ort, model, job, { executionProviders: ["wasm"] });
})()"""


class Pages(http.server.SimpleHTTPRequestHandler):
    """The packages, the jobs and the models."""

    def __init__(self, *words, folder, place, files, **more):
        self.extensions_map = {".mjs": "text/javascript", ".wasm": "application/wasm", "": "text/html"}
        self.place, self.files = place, files
        super().__init__(*words, directory=str(folder), **more)

    def translate_path(self, path):
        if path == "/answer.mjs":
            return str(HERE / "runtimes" / "answer.mjs")
        if path == "/jobs.json":
            return str(self.place / "jobs.json")
        if path.startswith("/model/"):
            return str(self.files[int(path.rpartition("/")[2])].model)
        if path == "/":
            return str(self.place / "empty.html")
        return super().translate_path(path)

    def log_message(self, *_):
        pass


def answers(folder, files, place):
    """Return onnxruntime-web's answers by file."""
    from browser import CHROMIUM, Browser

    if CHROMIUM is None:
        sys.exit("there is no Chromium")
    forms.write_jobs(files, place / "jobs.json", pixels=True)
    (place / "empty.html").write_text("<!doctype html><title>empty</title>", encoding="utf-8")
    package = folder / "node_modules" / "onnxruntime-web" / "package.json"
    version = json.loads(package.read_text(encoding="utf-8"))["version"]
    handler = functools.partial(Pages, folder=folder, place=place, files=files)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    found = {}
    with tempfile.TemporaryDirectory() as profile:
        browser = Browser(profile)
        browser.ask("Page.navigate", url=f"http://127.0.0.1:{server.server_port}/")
        while not any(event.get("method") == "Page.loadEventFired" for event in browser.events):
            browser.events.append(browser.hear())
        for number, file in enumerate(files):
            row = browser.run(CODE.replace("NUMBER", str(number)))
            found[file.name] = {"name": file.name, "version": version, **row}
        browser.close()
    server.shutdown()
    return found
