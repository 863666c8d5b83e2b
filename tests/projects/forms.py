"""A page's form, filled in and sent as a browser would: every field goes along, hidden ones and chosen options too."""

from __future__ import annotations

from html.parser import HTMLParser
from urllib.parse import urljoin

import requests

TIMEOUT = 60


class Forms(HTMLParser):
    """The forms of a page: each one's action and fields, with what a browser would send of each, untouched."""

    def __init__(self, page: str):
        super().__init__()
        self.found: list[tuple[str, dict[str, list[str]]]] = []
        self.fields: dict[str, list[str]] | None = None
        self.select = self.textarea = None
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        has = dict(attrs)
        name, value = has.get("name"), has.get("value") or ""
        if tag == "form":
            self.fields = {}
            self.found.append((has.get("action") or "", self.fields))
        elif self.fields is None or "disabled" in has:
            return
        elif tag == "input" and name:
            kind, sent = has.get("type", "text"), self.fields.setdefault(name, [])
            if kind in ("checkbox", "radio"):
                sent += [has.get("value", "on")] * ("checked" in has)
            elif kind not in ("submit", "button", "image", "file", "reset"):
                sent.append(value)
        elif tag == "select" and name:
            self.select = (name, "multiple" in has)
        elif tag == "option" and self.select:
            chosen, multiple = self.select
            if "selected" in has:
                self.fields[chosen] = [*self.fields.get(chosen, []), value] if multiple else [value]
            elif not multiple:
                self.fields.setdefault(chosen, [value])
        elif tag == "textarea" and name:
            self.textarea = name
            self.fields[name] = [""]

    def handle_data(self, data):
        if self.textarea:
            # A browser leaves out the line break that follows the tag.
            self.fields[self.textarea] = [(self.fields[self.textarea][0] + data).removeprefix("\n")]

    def handle_endtag(self, tag):
        if tag == "form":
            self.fields = None
        elif tag in ("select", "textarea"):
            setattr(self, tag, None)


def submit(session: requests.Session, page: requests.Response, files: dict | None = None, **values: str):
    """Fill in the page's form that has fields of these names, and send it; the page that follows."""
    assert page.status_code == 200, f"{page.url} answers {page.status_code}\n{page.text[:2000]}"
    forms = Forms(page.text).found
    fitting = [(action, fields) for action, fields in forms if values.keys() <= fields.keys()]
    assert fitting, f"{page.url} has no form with {', '.join(values)}, but {[list(fields) for _, fields in forms]}"
    action, fields = fitting[0]
    answer = session.post(
        urljoin(page.url, action), data=fields | values, files=files, headers={"Referer": page.url}, timeout=TIMEOUT
    )
    assert answer.status_code == 200, f"{answer.url} answers {answer.status_code}\n{answer.text[:2000]}"
    return answer
