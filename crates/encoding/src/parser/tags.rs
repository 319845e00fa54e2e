//! The tags of a tool-call block, recognised at the front of a text that may still grow.

use crate::control::Control;

/// A tag inside a block of calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Tag {
    CallsClose,
    InvokeOpen {
        name: String,
    },
    InvokeClose,
    /// `is_string` is what the `string` attribute says, if it is there.
    ParameterOpen {
        key: String,
        is_string: Option<bool>,
    },
    ParameterClose,
}

/// What the front of a text is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Scan<T> {
    /// This, of so many bytes.
    Whole(T, usize),
    /// Perhaps the beginning of something; more text will tell.
    Partial,
    /// Nothing.
    No,
}

/// How the tags of a block are marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Marking {
    /// With `｜DSML｜`, of which a model sometimes loses the first bar.
    Dsml,
    /// Some tags, or all, without it.
    Bare,
}

/// What opens a block anywhere in a text. The first is the format; the others are what models made of it.
pub(super) const BLOCK_OPEN: [&str; 4] =
    ["<｜DSML｜tool_calls>", "<｜DSML｜toolcalls>", "<DSML｜tool_calls>", "<DSML｜toolcalls>"];

/// What opens a block at the start of a line only: in the middle of one it is somebody writing about tags.
pub(super) const BLOCK_OPEN_BARE: &str = "<tool_calls>";

/// A tag's header is short. What looks like the beginning of a longer one is text.
const HEADER_BYTES_MAX: usize = 2048;

const PREFIXES: [&str; 3] = ["｜DSML｜", "DSML｜", ""];

/// The tag at the front of `text`.
pub(super) fn tag(text: &str, marking: Marking) -> Scan<Tag> {
    match closing_tag(text, marking) {
        Scan::No => {}
        found => return found,
    }
    let mut scan = Scan::No;
    for prefix in prefixes(marking) {
        for name in ["invoke", "parameter"] {
            match Cursor::new(text).literal("<").and_then(|c| c.literal(prefix)).and_then(|c| c.literal(name))
            {
                Ok(cursor) if name == "invoke" => return bounded(text, invoke_header(cursor)),
                Ok(cursor) => return bounded(text, parameter_header(cursor)),
                Err(Stop::Partial) => scan = Scan::Partial,
                Err(Stop::No) => {}
            }
        }
    }
    scan
}

/// The closing tag at the front of `text`. Inside a value no other tag counts.
pub(super) fn closing_tag(text: &str, marking: Marking) -> Scan<Tag> {
    let names = [
        ("parameter>", Tag::ParameterClose),
        ("invoke>", Tag::InvokeClose),
        ("tool_calls>", Tag::CallsClose),
        ("toolcalls>", Tag::CallsClose),
    ];
    let mut scan = Scan::No;
    for prefix in prefixes(marking) {
        for (name, tag) in &names {
            match Cursor::new(text)
                .literal("</")
                .and_then(|c| c.literal(prefix))
                .and_then(|c| c.literal(name))
            {
                Ok(cursor) => return Scan::Whole(tag.clone(), cursor.at),
                Err(Stop::Partial) => scan = Scan::Partial,
                Err(Stop::No) => {}
            }
        }
    }
    scan
}

/// Whether `text` is the text of the end-of-turn token, or may become it.
pub(super) fn may_be_end_of_turn(text: &str) -> bool {
    Control::Eos.text().starts_with(text)
}

fn prefixes(marking: Marking) -> &'static [&'static str] {
    match marking {
        Marking::Dsml => &PREFIXES[..2],
        Marking::Bare => &PREFIXES,
    }
}

/// Holds for every way the text was cut: a header is too long or it is not.
fn bounded(text: &str, scan: Scan<Tag>) -> Scan<Tag> {
    match scan {
        Scan::Whole(_, len) if len > HEADER_BYTES_MAX => Scan::No,
        Scan::Partial if text.len() > HEADER_BYTES_MAX => Scan::No,
        scan => scan,
    }
}

fn invoke_header(cursor: Cursor<'_>) -> Scan<Tag> {
    header(cursor, invoke_attributes, |name, _| Tag::InvokeOpen { name })
}

fn parameter_header(cursor: Cursor<'_>) -> Scan<Tag> {
    header(cursor, parameter_attributes, |key, is_string| Tag::ParameterOpen { key, is_string })
}

/// What may follow a name, up to the end of the tag, and what it says about strings.
type Attributes = fn(Cursor<'_>) -> Result<(Cursor<'_>, Option<bool>), Stop>;

fn invoke_attributes(cursor: Cursor<'_>) -> Result<(Cursor<'_>, Option<bool>), Stop> {
    Ok((cursor.literal(">")?, None))
}

fn parameter_attributes(cursor: Cursor<'_>) -> Result<(Cursor<'_>, Option<bool>), Stop> {
    if let Ok(end) = cursor.literal(">") {
        return Ok((end, None));
    }
    let cursor = cursor.literal("string")?.white_space().literal("=")?.white_space();
    let (cursor, quote) = cursor.quote()?;
    let (cursor, is_string) = match cursor.literal("true") {
        Ok(cursor) => (cursor, true),
        Err(Stop::Partial) => return Err(Stop::Partial),
        Err(Stop::No) => (cursor.literal("false")?, false),
    };
    let cursor = cursor.literal(quote)?.white_space().literal(">")?;
    Ok((cursor, Some(is_string)))
}

/// ` name="…"` and what follows. The format escapes nothing, so a quote ends the name only where the rest of the
/// header follows it.
fn header(cursor: Cursor<'_>, rest: Attributes, tag: fn(String, Option<bool>) -> Tag) -> Scan<Tag> {
    let start = || cursor.white_space().literal("name")?.white_space().literal("=")?.white_space().quote();
    let (name_start, quote) = match start() {
        Ok(found) => found,
        Err(Stop::Partial) => return Scan::Partial,
        Err(Stop::No) => return Scan::No,
    };
    let text = name_start.text;
    for (at, _) in text[name_start.at..].match_indices(quote) {
        let name_end = name_start.at + at;
        match rest(Cursor { text, at: name_end + quote.len() }.white_space()) {
            Ok((end, is_string)) => {
                return Scan::Whole(tag(text[name_start.at..name_end].to_owned(), is_string), end.at);
            }
            Err(Stop::Partial) => return Scan::Partial,
            Err(Stop::No) => {}
        }
    }
    Scan::Partial
}

/// Why a cursor cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    /// The text ends here.
    Partial,
    /// The text says something else.
    No,
}

/// A place in a text.
#[derive(Clone, Copy)]
struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    fn literal(self, literal: &str) -> Result<Self, Stop> {
        let rest = &self.text[self.at..];
        if rest.starts_with(literal) {
            Ok(Self { at: self.at + literal.len(), ..self })
        } else if literal.starts_with(rest) {
            Err(Stop::Partial)
        } else {
            Err(Stop::No)
        }
    }

    fn white_space(self) -> Self {
        let rest = &self.text[self.at..];
        let skipped = rest.len() - rest.trim_ascii_start().len();
        Self { at: self.at + skipped, ..self }
    }

    fn quote(self) -> Result<(Self, &'static str), Stop> {
        match self.literal("\"") {
            Ok(cursor) => Ok((cursor, "\"")),
            Err(Stop::Partial) => Err(Stop::Partial),
            Err(Stop::No) => Ok((self.literal("'")?, "'")),
        }
    }
}

/// Whether the parser reads the header of a call of this name as exactly that.
pub(crate) fn reads_as_invoke(name: &str) -> bool {
    let text = format!("<{}invoke name=\"{name}\">", PREFIXES[0]);
    tag(&text, Marking::Dsml) == Scan::Whole(Tag::InvokeOpen { name: name.to_owned() }, text.len())
}

/// Whether the parser reads the header of a parameter of this name as exactly that, in both forms.
pub(crate) fn reads_as_parameter(key: &str) -> bool {
    [(true, "true"), (false, "false")].into_iter().all(|(is_string, word)| {
        let text = format!("<{}parameter name=\"{key}\" string=\"{word}\">", PREFIXES[0]);
        let want = Tag::ParameterOpen { key: key.to_owned(), is_string: Some(is_string) };
        tag(&text, Marking::Dsml) == Scan::Whole(want, text.len())
    })
}
