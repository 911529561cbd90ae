"""Measure a page in a browser: what sticks out, what overlaps, and what axe-core finds."""

from __future__ import annotations

import functools
import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.regressions.process import missing

if TYPE_CHECKING:
    from playwright.async_api import Page

WIDTHS = (320, 480, 768, 1024, 1280, 1920)
_AXE = "axe-core@4.14.1"
_AXE_SHA256 = "29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c"
_LAYOUT = """() => {
  const wrong = [], width = innerWidth, name = (node) => {
    const id = node.id ? `#${node.id}` : node.className ? `.${String(node.className.baseVal ?? node.className)}` : "";
    return `${node.tagName.toLowerCase()}${id} "${node.textContent.trim().slice(0, 30)}"`;
  };
  const whole = document.documentElement.scrollWidth;
  if (whole > width) wrong.push(`the page is ${whole} wide`);
  const dialog = document.querySelector("dialog[open]"), texts = [];
  const hidden = (label) => label && getComputedStyle(label).position === "absolute";
  const unseen = (node) => node.closest(".unseen, .skip, noscript") || hidden(node.closest(".label"));
  for (const node of (dialog ?? document.body).querySelectorAll("*")) {
    if (!node.checkVisibility() || unseen(node) || node.closest("svg")) continue;
    const box = node.getBoundingClientRect();
    const outside = box.left < -0.5 || box.right > width + 0.5, more = node.scrollWidth - node.clientWidth;
    if (box.width && outside) wrong.push(`${name(node)} ends at ${box.right.toFixed(0)}`);
    const clips = getComputedStyle(node).textOverflow === "ellipsis" || ["SELECT", "INPUT"].includes(node.tagName);
    if (node.clientWidth && more > 1 && !clips) wrong.push(`${name(node)} holds ${more} too much`);
    if (clips) continue;
    for (const child of node.childNodes) {
      if (child.nodeType !== Node.TEXT_NODE || !child.data.trim() || node.closest("#said")) continue;
      const range = document.createRange();
      range.selectNodeContents(child);
      for (const rect of range.getClientRects()) if (rect.width > 1) texts.push({ node, rect });
    }
  }
  texts.sort((a, b) => a.rect.top - b.rect.top);
  texts.forEach((one, index) => {
    for (let at = index + 1; at < texts.length && texts[at].rect.top < one.rect.bottom; at += 1) {
      const other = texts[at];
      if (other.node === one.node || one.node.contains(other.node) || other.node.contains(one.node)) continue;
      const across = Math.min(one.rect.right, other.rect.right) - Math.max(one.rect.left, other.rect.left);
      const down = Math.min(one.rect.bottom, other.rect.bottom) - Math.max(one.rect.top, other.rect.top);
      if (across > 1 && down > 4) wrong.push(`${name(one.node)} and ${name(other.node)} overlap`);
    }
  });
  return wrong.slice(0, 20);
}"""


async def misplaced(page: Page) -> list[str]:
    """Return what scrolls sideways, sticks out of its box or the window, or overlaps another text."""
    found: list[str] = await page.evaluate(_LAYOUT)
    return found


@functools.cache
def axe_source() -> str:
    """Return axe-core as npm has it; skip where it cannot be had, which fails in CI."""
    npm = shutil.which("npm")
    if npm is None:
        missing("npm, which brings axe-core")
    with tempfile.TemporaryDirectory() as folder:
        command = [str(npm), "pack", _AXE, "--silent", "--prefer-offline", "--pack-destination", folder]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=60)
        packed = next(Path(folder).glob("*.tgz"), None)
        if packed is None:
            missing(f"{_AXE} by npm: {done.stderr.strip()[-200:]}")
        assert packed is not None
        with tarfile.open(packed) as archive:
            member = archive.extractfile("package/axe.min.js")
            assert member is not None
            source = member.read()
    assert hashlib.sha256(source).hexdigest() == _AXE_SHA256, "another axe-core than the one that was looked at"
    return source.decode()


async def violations(page: Page) -> list[str]:
    """Return what axe-core finds wrong: rule and element. `evaluate` is not bound by the page's policy."""
    if not await page.evaluate("Boolean(window.axe)"):
        await page.evaluate(axe_source())
    result: dict[str, Any] = await page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
    return [
        f"{rule['id']}: {', '.join(str(node['target']) for node in rule['nodes'][:5])}" for rule in result["violations"]
    ]
