//! How deep the JSON of an answer is nested, and no deeper than readers follow.

use cuvier_types::TokenId;

use super::grammar::Structure;

/// Lists in objects in lists. Readers give up at 128 levels, the parser of calls takes values of more than 63 for
/// text, and a model that goes on opening lists never ends.
pub(crate) const DEPTH_MAX: usize = 48;

/// What the text is at this place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Nesting {
    /// Nothing that nests.
    Text,
    /// A tag and what follows it, until that is JSON: the last bytes.
    Tag(Vec<u8>),
    /// JSON.
    Json { depth: usize, in_string: bool, is_escaped: bool },
}

impl Nesting {
    pub(crate) fn new(structure: Structure) -> Self {
        match structure {
            Structure::Text => Self::Text,
            Structure::Json => Self::json(),
            Structure::Calls => Self::Tag(Vec::new()),
        }
    }

    fn json() -> Self {
        Self::Json { depth: 0, in_string: false, is_escaped: false }
    }

    /// A tag begins.
    pub(crate) fn mark(&mut self) {
        *self = Self::Tag(Vec::new());
    }

    /// Takes the bytes of a token that is no mark. True if they nest too deep.
    pub(crate) fn push(&mut self, bytes: &[u8], json_header: &[u8]) -> bool {
        let mut is_too_deep = false;
        for &byte in bytes {
            match self {
                Self::Text => return is_too_deep,
                Self::Tag(last) => {
                    if last.len() >= 2 * json_header.len() {
                        last.drain(..json_header.len());
                    }
                    last.push(byte);
                    if last.ends_with(json_header) {
                        *self = Self::json();
                    }
                }
                Self::Json { depth, in_string, is_escaped } => match byte {
                    _ if *is_escaped => *is_escaped = false,
                    b'\\' if *in_string => *is_escaped = true,
                    b'"' => *in_string = !*in_string,
                    b'[' | b'{' if !*in_string => {
                        *depth += 1;
                        is_too_deep |= *depth > DEPTH_MAX;
                    }
                    b']' | b'}' if !*in_string => *depth = depth.saturating_sub(1),
                    _ => {}
                },
            }
        }
        is_too_deep
    }

    /// Those of `openers` that would nest too deep. Each comes with its bytes; none has more than `opens_max`
    /// brackets.
    pub(crate) fn too_deep<'a>(
        &self,
        openers: impl Iterator<Item = (TokenId, &'a [u8])>,
        opens_max: usize,
        json_header: &[u8],
    ) -> Vec<TokenId> {
        let depth = match self {
            Self::Text => return Vec::new(),
            Self::Tag(_) => 0,
            Self::Json { depth, .. } => *depth,
        };
        if depth + opens_max <= DEPTH_MAX {
            return Vec::new();
        }
        openers.filter(|(_, bytes)| self.clone().push(bytes, json_header)).map(|(token, _)| token).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pushed(structure: Structure, text: &str) -> (Nesting, bool) {
        let mut nesting = Nesting::new(structure);
        let is_too_deep = nesting.push(text.as_bytes(), b"json>");
        (nesting, is_too_deep)
    }

    #[test]
    fn brackets_in_strings_do_not_nest() {
        let (nesting, _) = pushed(Structure::Json, r#"[{"a\"[[": "]"#);
        assert_eq!(nesting, Nesting::Json { depth: 2, in_string: true, is_escaped: false });
        assert!(pushed(Structure::Json, &"[".repeat(DEPTH_MAX + 1)).1);
        assert!(!pushed(Structure::Json, &"[".repeat(DEPTH_MAX)).1);
        assert!(!pushed(Structure::Json, &"[]".repeat(1000)).1);
    }

    #[test]
    fn only_the_values_of_json_headers_nest() {
        assert!(!pushed(Structure::Calls, &("parameter > text>".to_owned() + &"[".repeat(99))).1);
        assert!(pushed(Structure::Calls, &("parameter > json>".to_owned() + &"[".repeat(99))).1);
        let (mut nesting, _) = pushed(Structure::Calls, "parameter json>[[");
        assert_eq!(nesting, Nesting::Json { depth: 2, in_string: false, is_escaped: false });
        nesting.mark();
        assert_eq!(nesting, Nesting::Tag(Vec::new()));
    }

    #[test]
    fn a_token_that_opens_too_much_is_named_when_it_matters() {
        let tokens: [(TokenId, &[u8]); 2] = [(TokenId(7), b"[["), (TokenId(8), b"[")];
        let named = |text: &str| pushed(Structure::Json, text).0.too_deep(tokens.into_iter(), 2, b"json>");
        assert_eq!(named(""), []);
        assert_eq!(named(&"[".repeat(DEPTH_MAX - 1)), [TokenId(7)]);
        assert_eq!(named(&"[".repeat(DEPTH_MAX)), [TokenId(7), TokenId(8)]);
        assert_eq!(named(&("[".repeat(DEPTH_MAX) + "\"")), []);
    }
}
