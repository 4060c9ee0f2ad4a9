"""HTML in questions: found, and taken out so that the encoder sees what a reader would see."""

import html
import re
from html.parser import HTMLParser

_TAGS = (
    "a|abbr|b|blockquote|body|br|center|code|dd|del|div|dl|dt|em|font|h[1-6]|head|hr|html|i|iframe|img"
    "|input|ins|label|li|link|meta|ol|p|pre|q|s|script|section|small|span|strike|strong|style|sub"
    "|sup|table|tbody|td|th|thead|tr|tt|u|ul"
)
_ATTRIBUTES = r"""(?:\s+[\w:-]+\s*=\s*(?:"[^"]*"|'[^']*'|[^\s"'<>]+))*"""
_TAG = re.compile(rf"</?(?:{_TAGS}){_ATTRIBUTES}\s*/?>|<!--.*?-->", re.IGNORECASE | re.DOTALL)
_ENTITY = re.compile(r"&(?:#\d{1,7}|#x[0-9a-f]{1,6}|[a-z][a-z0-9]{1,30});", re.IGNORECASE)
_INLINE = frozenset(("a", "abbr", "b", "code", "em", "font", "i", "small", "span", "strong", "u"))
_UNSEEN = frozenset(("script", "style", "head"))
_MOST_PASSES = 3


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._unseen = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag in _UNSEEN:
            self._unseen += 1
        elif tag not in _INLINE:
            self.parts.append(" ")

    def handle_endtag(self, tag: str) -> None:
        if tag in _UNSEEN:
            self._unseen = max(0, self._unseen - 1)
        elif tag not in _INLINE:
            self.parts.append(" ")

    def handle_data(self, data: str) -> None:
        if not self._unseen:
            self.parts.append(data)


def has_html(text: str) -> bool:
    """Whether the text holds a tag or an entity of HTML; `3 < 5` and `R&D` are none."""
    return bool(_TAG.search(text) or _ENTITY.search(text))


def without_html(text: str) -> str:
    """The text as a browser would show it, on one line; the same text if it holds no HTML.

    Escaped HTML (`&lt;p&gt;`), as content systems export it, is taken out too.
    """
    for _ in range(_MOST_PASSES):
        if not has_html(text):
            break
        if _TAG.search(text):
            parser = _Text()
            parser.feed(text)
            parser.close()
            text = "".join(parser.parts)
        else:
            text = html.unescape(text)
        text = " ".join(text.split())
    return text
