//! Files of one idea, functions of one screen.

use super::Source;

/// Lines of a file, tests apart.
const FILE_LINES_MAX: usize = 600;
/// Lines of a function, from `fn` to its closing brace.
const FUNCTION_LINES_MAX: usize = 70;

/// Today's exceptions: `path` or `path:function`, each with its reason. One that has healed must be removed.
const EXCEPTIONS: [(&str, &str); 0] = [];

/// Files and functions that are too long, and exceptions that no longer are.
pub fn check(sources: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources.iter().filter(|source| source.path.ends_with(".rs") && !source.is_test()) {
        let lines = source.code().len();
        if lines > FILE_LINES_MAX {
            found.push((
                source.path.clone(),
                format!("{} has {lines} lines, at most {FILE_LINES_MAX}", source.path),
            ));
        }
        for (name, line, length) in functions(source.code()) {
            if length > FUNCTION_LINES_MAX {
                let text = format!(
                    "{}:{line}: `{name}` has {length} lines, at most {FUNCTION_LINES_MAX}",
                    source.path
                );
                found.push((format!("{}:{name}", source.path), text));
            }
        }
    }
    let is_excepted = |key: &str| EXCEPTIONS.iter().any(|(exception, _)| *exception == key);
    let healed = EXCEPTIONS.iter().filter(|(exception, _)| found.iter().all(|(key, _)| key != exception));
    let healed: Vec<_> = healed.map(|(key, _)| format!("{key} is small now: remove its exception")).collect();
    found.into_iter().filter(|(key, _)| !is_excepted(key)).map(|(_, text)| text).chain(healed).collect()
}

/// Name, first line and length of each function; relies on the formatting of rustfmt.
fn functions(lines: &[String]) -> Vec<(String, usize, usize)> {
    let mut functions = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let Some(name) = function_name(line) else { continue };
        let indent = &line[..line.len() - line.trim_start().len()];
        let end =
            lines[start..].iter().position(|line| *line == format!("{indent}}}") || line.ends_with(';'));
        let closing = lines[start..].iter().position(|line| *line == format!("{indent}}}"));
        // A declaration without body ends with a semicolon before any brace opens.
        let has_body =
            lines[start..].iter().take_while(|line| !line.ends_with(';')).any(|line| line.ends_with('{'));
        if let (true, Some(_), Some(length)) = (has_body, end, closing) {
            functions.push((name, start + 1, length + 1));
        }
    }
    functions
}

fn function_name(line: &str) -> Option<String> {
    let mut words = line.trim_start();
    for prefix in ["pub(crate) ", "pub(super) ", "pub ", "const ", "async ", "unsafe ", "extern \"C\" "] {
        words = words.strip_prefix(prefix).unwrap_or(words);
    }
    let name = words.strip_prefix("fn ")?;
    Some(name.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_function_is_measured_from_its_name_to_its_brace() {
        let code = lines(
            "impl A {\n    pub fn long(\n        x: u8,\n    ) {\n        if x {\n        }\n    }\n\n    fn declared();\n}",
        );
        assert_eq!(functions(&code), [("long".to_owned(), 2, 6)]);
    }

    #[test]
    fn a_file_above_the_limit_is_found() {
        let source = Source { path: "crates/a/src/lib.rs".to_owned(), lines: vec![String::new(); 601] };
        assert_eq!(check(&[source]).len(), 1);
    }
}
