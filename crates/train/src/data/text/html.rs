//! HTML to plain text: what a reader sees of a page's main part, headings and lists marked as in Markdown.

/// Elements whose content is no text of the page.
const SKIPPED: [&str; 12] = [
    "script",
    "style",
    "head",
    "nav",
    "button",
    "svg",
    "template",
    "noscript",
    "rustdoc-toolbar",
    "footer",
    "select",
    "title",
];
/// Classes of elements that a reader does not read: link marks, links to sources, hidden lines of examples.
const SKIPPED_CLASSES: [&str; 9] =
    ["anchor", "doc-anchor", "src", "test-arrow", "boring", "since", "sub-heading", "rightside", "hideme"];
/// Elements that every page of rustdoc repeats.
const SKIPPED_IDS: [&str; 4] = [
    "synthetic-implementations",
    "synthetic-implementations-list",
    "blanket-implementations",
    "blanket-implementations-list",
];
/// Elements that begin and end a paragraph.
const BLOCKS: [&str; 22] = [
    "p",
    "div",
    "section",
    "article",
    "main",
    "pre",
    "ul",
    "ol",
    "dl",
    "table",
    "blockquote",
    "details",
    "summary",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "hr",
    "header",
    "figure",
];
/// Elements that have no end.
const VOID: [&str; 8] = ["br", "hr", "img", "input", "link", "meta", "wbr", "col"];

/// The text of a page. Paragraphs have a blank line between them; what is preformatted keeps its white space.
pub(super) fn text(html: &str) -> String {
    let mut page = Page::default();
    let mut rest = main_part(html);
    while let Some(at) = rest.find('<') {
        page.push_text(&rest[..at]);
        rest = &rest[at..];
        match Tag::parse(rest) {
            Some((tag, len)) => {
                page.push_tag(&tag);
                rest = &rest[len..];
            }
            None => {
                page.push_text("<");
                rest = &rest[1..];
            }
        }
    }
    page.push_text(rest);
    page.end_paragraph();
    page.paragraphs.join("\n\n")
}

/// What lies within `<main>`, or everything.
fn main_part(html: &str) -> &str {
    let Some(start) = html.find("<main") else { return html };
    let end = html[start..].find("</main>").map_or(html.len(), |at| start + at);
    &html[start..end]
}

/// What stands between `<` and `>`.
#[derive(Debug, PartialEq, Eq)]
enum Tag<'a> {
    /// An opening tag, and what it says of itself.
    Open { name: String, attributes: &'a str },
    /// A closing tag.
    Close { name: String },
    /// A comment or a declaration.
    Other,
}

impl<'a> Tag<'a> {
    /// The tag that the text begins with, and its length; nothing if the `<` is one of a text.
    fn parse(text: &'a str) -> Option<(Self, usize)> {
        if text.starts_with("<!--") {
            return Some((Self::Other, text.find("-->").map_or(text.len(), |at| at + 3)));
        }
        let inner = &text[1..];
        let first = inner.strip_prefix('/').unwrap_or(inner).chars().next()?;
        if !first.is_ascii_alphabetic() && first != '!' {
            return None;
        }
        let len = tag_len(text);
        let inner = text[1..len].trim_end_matches(['>', '/']);
        if let Some(name) = inner.strip_prefix('/') {
            return Some((Self::Close { name: name.trim().to_ascii_lowercase() }, len));
        }
        if first == '!' {
            return Some((Self::Other, len));
        }
        let (name, attributes) = inner.split_once(char::is_whitespace).unwrap_or((inner, ""));
        Some((Self::Open { name: name.to_ascii_lowercase(), attributes }, len))
    }
}

/// Up to the `>` that is in no quotes.
fn tag_len(text: &str) -> usize {
    let mut quote = None;
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (None, '>') => return at + 1,
            (None, '"' | '\'') => quote = Some(c),
            (Some(open), c) if c == open => quote = None,
            _ => {}
        }
    }
    text.len()
}

fn attribute<'a>(attributes: &'a str, name: &str) -> &'a str {
    let begins_there = |&(at, _): &(usize, &str)| {
        attributes[..at].chars().next_back().is_none_or(char::is_whitespace)
            && attributes[at + name.len()..].starts_with('=')
    };
    let Some((at, _)) = attributes.match_indices(name).find(begins_there) else { return "" };
    let value = &attributes[at + name.len() + 1..];
    match value.chars().next() {
        Some(quote @ ('"' | '\'')) => value[1..].split(quote).next().unwrap_or(""),
        _ => value.split(char::is_whitespace).next().unwrap_or(""),
    }
}

/// The text so far.
#[derive(Default)]
struct Page {
    paragraphs: Vec<String>,
    paragraph: String,
    /// The element whose content is skipped, and how many of its name are open within.
    skipped: Option<(String, usize)>,
    /// Preformatted elements that are open.
    n_preformatted: usize,
}

impl Page {
    fn push_tag(&mut self, tag: &Tag<'_>) {
        if let Some((skipped, depth)) = &mut self.skipped {
            match tag {
                Tag::Open { name, .. } if name == skipped => *depth += 1,
                Tag::Close { name } if name == skipped => *depth -= 1,
                _ => {}
            }
            if *depth == 0 {
                self.skipped = None;
            }
            return;
        }
        match tag {
            Tag::Open { name, attributes } => self.open(name, attributes),
            Tag::Close { name } => {
                if name == "pre" {
                    self.n_preformatted = self.n_preformatted.saturating_sub(1);
                }
                if BLOCKS.contains(&name.as_str()) {
                    self.end_paragraph();
                }
            }
            Tag::Other => {}
        }
    }

    fn open(&mut self, name: &str, attributes: &str) {
        let mut classes = attribute(attributes, "class").split_whitespace();
        let is_skipped = SKIPPED.contains(&name)
            || SKIPPED_IDS.contains(&attribute(attributes, "id"))
            || classes.any(|class| SKIPPED_CLASSES.contains(&class));
        if is_skipped && !VOID.contains(&name) {
            self.skipped = Some((name.to_owned(), 1));
            return;
        }
        // A paragraph within an item or a cell goes on with it.
        if BLOCKS.contains(&name) && !(name == "p" && self.paragraph.ends_with("- ")) {
            self.end_paragraph();
        }
        match name {
            "pre" => self.n_preformatted += 1,
            "li" | "dt" => self.begin_line("- "),
            "br" | "tr" | "dd" => self.begin_line(""),
            "td" | "th" => self.push_collapsed(" "),
            _ => {
                let level = name.strip_prefix('h').and_then(|level| level.parse::<usize>().ok());
                if let Some(level @ 1..=6) = level {
                    self.paragraph.push_str(&"#".repeat(level));
                    self.paragraph.push(' ');
                }
            }
        }
    }

    fn push_text(&mut self, text: &str) {
        if self.skipped.is_some() {
            return;
        }
        let text = unescaped(text);
        if self.n_preformatted > 0 { self.paragraph.push_str(&text) } else { self.push_collapsed(&text) }
    }

    /// Every run of white space is one space, none at the beginning.
    fn push_collapsed(&mut self, text: &str) {
        for c in text.chars() {
            if !c.is_whitespace() {
                self.paragraph.push(c);
            } else if !self.paragraph.is_empty() && !self.paragraph.ends_with(char::is_whitespace) {
                self.paragraph.push(' ');
            }
        }
    }

    fn begin_line(&mut self, mark: &str) {
        let written = self.paragraph.trim_end_matches(' ').len();
        self.paragraph.truncate(written);
        if !self.paragraph.is_empty() && !self.paragraph.ends_with('\n') {
            self.paragraph.push('\n');
        }
        self.paragraph.push_str(mark);
    }

    fn end_paragraph(&mut self) {
        let paragraph = std::mem::take(&mut self.paragraph);
        // The indent of a preformatted first line is text; the line ends before it are not.
        let text = paragraph.trim_end().trim_start_matches(['\n', '\r']);
        if !text.trim_matches(['#', '-', ' ', '\n']).is_empty() {
            self.paragraphs.push(text.to_owned());
        }
    }
}

/// The text with its character references resolved. What is none is kept as it is.
fn unescaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let end = rest.find(';').filter(|&end| end <= 10);
        match end.and_then(|end| Some((character(&rest[1..end])?, end + 1))) {
            Some((c, len)) => {
                out.push(c);
                rest = &rest[len..];
            }
            None => {
                out.push('&');
                rest = &rest[1..];
            }
        }
    }
    out.push_str(rest);
    out
}

fn character(name: &str) -> Option<char> {
    if let Some(number) = name.strip_prefix('#') {
        let code = match number.strip_prefix(['x', 'X']) {
            Some(hexadecimal) => u32::from_str_radix(hexadecimal, 16),
            None => number.parse(),
        };
        return char::from_u32(code.ok()?);
    }
    Some(match name {
        "amp" => '&',
        "lt" => '<',
        "gt" => '>',
        "quot" => '"',
        "apos" => '\'',
        "nbsp" => ' ',
        "mdash" => '—',
        "ndash" => '–',
        "hellip" => '…',
        "copy" => '©',
        "times" => '×',
        "rarr" => '→',
        "larr" => '←',
        "lsquo" => '‘',
        "rsquo" => '’',
        "ldquo" => '“',
        "rdquo" => '”',
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::text;

    #[test]
    fn only_the_main_part_of_a_page_is_read() {
        let page = "<html><head><title>No</title></head><nav>No</nav><main><h2>Ships</h2><p>They  sail\n here.</p>\
                    <nav>Next</nav><script>if (a < b) {}</script></main><footer>No</footer></html>";
        assert_eq!(text(page), "## Ships\n\nThey sail here.");
    }

    #[test]
    fn preformatted_text_keeps_its_lines_and_hidden_lines_are_left_out() {
        let page = "<p>Code:</p><pre><code><span class=\"boring\">fn main() {\n</span>    let <b>a</b> = 1 &lt; 2;\n    a\n\
                    <span class=\"boring\">}</span></code></pre>";
        assert_eq!(text(page), "Code:\n\n    let a = 1 < 2;\n    a");
    }

    #[test]
    fn lists_and_tables_keep_their_lines() {
        assert_eq!(text("<ul><li>one</li><li><p>two</p></li></ul><p>end"), "- one\n- two\n\nend");
        assert_eq!(
            text("<table><tr><th>a</th><th>b</th></tr><tr><td>1</td><td>2</td></tr></table>"),
            "a b\n1 2"
        );
    }

    #[test]
    fn characters_are_resolved_and_what_is_no_reference_stays() {
        assert_eq!(text("a &amp; b &#65;&#x42; &unknown; &c"), "a & b AB &unknown; &c");
        assert_eq!(text("1 < 2 <b>and</b> 3 <"), "1 < 2 and 3 <");
    }

    #[test]
    fn quotes_and_comments_do_not_end_a_tag_early() {
        assert_eq!(text("<a title=\"x > y\">link</a><!-- a > b --> text"), "link text");
    }

    #[test]
    fn what_every_page_of_rustdoc_repeats_is_left_out() {
        let page = "<h2 id=\"a\">Own</h2><h2 class=x id=\"blanket-implementations\">Blanket<a>§</a></h2>\
                    <div id='blanket-implementations-list'><div>impl</div></div><p data-id=\"since\">End";
        assert_eq!(text(page), "## Own\n\nEnd");
    }

    #[test]
    fn skipped_elements_may_hold_their_own_kind() {
        assert_eq!(text("a<span class='boring'>b<span>c</span>d</span>e"), "ae");
        assert_eq!(text("a<nav><br><nav></nav>b</nav>c"), "ac");
    }

    proptest! {
        #[test]
        fn no_page_makes_it_fail(page in "[<>/!a-c&#;\"'= \n-]{0,80}", tail in ".{0,10}") {
            text(&format!("{page}{tail}"));
            text(&format!("<main{page}</main>{tail}"));
        }
    }
}
