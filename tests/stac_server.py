"""A STAC API and the files of a folder on this machine: python -m tests.stac_server FOLDER ITEMS prints its port."""

import functools
import http.server
import json
import pathlib
import re
import sys


class Server(http.server.SimpleHTTPRequestHandler):
  """Files with byte ranges, as GDAL asks for them, and a STAC API of one page."""

  items = ()

  def log_message(self, *args):
    pass

  def send_json(self, content):
    body = json.dumps(content).encode()
    self.send_response(200)
    self.send_header("Content-Type", "application/json")
    self.send_header("Content-Length", str(len(body)))
    self.end_headers()
    self.wfile.write(body)

  def do_POST(self):
    wanted = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
    found = [i for i in self.items if i["collection"] in wanted["collections"]]
    self.send_json({"type": "FeatureCollection", "features": found, "links": []})

  def do_GET(self):
    if self.path in ("/api", "/api/"):
      root = f"http://{self.headers['Host']}/api"
      links = [{"rel": rel, "href": root} for rel in ("self", "root")]
      links.append({"rel": "search", "href": f"{root}/search", "type": "application/geo+json", "method": "POST"})
      conforms = [f"https://api.stacspec.org/v1.0.0/{part}" for part in ("core", "item-search")]
      return self.send_json(
        {
          "type": "Catalog",
          "id": "a",
          "description": "-",
          "stac_version": "1.0.0",
          "conformsTo": conforms,
          "links": links,
        }
      )
    span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
    path = pathlib.Path(self.translate_path(self.path))
    if not span or not path.is_file():
      return super().do_GET()
    content = path.read_bytes()
    first, last = int(span[1]), min(int(span[2] or len(content)), len(content) - 1)
    self.send_response(206)
    self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
    self.send_header("Content-Length", str(last - first + 1))
    self.end_headers()
    self.wfile.write(content[first : last + 1])


def main(folder, items):
  found = json.loads(pathlib.Path(items).read_text())
  handler = functools.partial(type("Handler", (Server,), {"items": found}), directory=folder)
  server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
  print(server.server_address[1], flush=True)
  server.serve_forever()


if __name__ == "__main__":
  main(*sys.argv[1:])
