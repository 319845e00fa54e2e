//! The `pattern` of a schema, as an expression that matches whole values.

use regex_syntax::hir::{Hir, HirKind, Look};

/// An expression for the texts in which `pattern` is found; the reason if it cannot be followed.
///
/// A pattern is searched for, not matched (JSON Schema 2020-12, validation, 6.3.3), so without anchors anything may
/// stand around it. `\d` and `\w` are ASCII, as in ECMA-262.
pub(super) fn whole_text(pattern: &str) -> Result<String, String> {
    let hir = regex_syntax::parse(&with_ascii_classes(pattern)).map_err(|error| first_sentence(&error))?;
    let parts = match hir.kind() {
        HirKind::Concat(parts) => parts.clone(),
        _ => vec![hir.clone()],
    };
    let is_start = |hir: &Hir| matches!(hir.kind(), HirKind::Look(Look::Start));
    let is_end = |hir: &Hir| matches!(hir.kind(), HirKind::Look(Look::End));
    let n_start = parts.iter().take_while(|part| is_start(part)).count();
    let n_end = parts[n_start..].iter().rev().take_while(|part| is_end(part)).count();
    let body = Hir::concat(parts[n_start..parts.len() - n_end].to_vec());
    if !body.properties().look_set().is_empty() {
        return Err("anchors and word boundaries are possible at its two ends only".to_owned());
    }
    let around = |is_anchored: bool| if is_anchored { "" } else { "(?s:.*)" };
    Ok(format!("{}(?:{body}){}", around(n_start > 0), around(n_end > 0)))
}

/// Writes the classes that mean ASCII as ranges.
fn with_ascii_classes(pattern: &str) -> String {
    let mut out = String::new();
    let mut is_escaped = false;
    let mut in_class = false;
    for c in pattern.chars() {
        let ranges = match c {
            'd' | 'D' => "0-9",
            _ => "0-9A-Za-z_",
        };
        match c {
            'd' | 'w' if is_escaped && in_class => out.push_str(ranges),
            'd' | 'w' if is_escaped => out.push_str(&format!("[{ranges}]")),
            'D' | 'W' if is_escaped => out.push_str(&format!("[^{ranges}]")),
            '\\' if !is_escaped => {
                is_escaped = true;
                continue;
            }
            c if is_escaped => out.extend(['\\', c]),
            c => {
                in_class = if in_class { c != ']' } else { c == '[' };
                out.push(c);
            }
        }
        is_escaped = false;
    }
    if is_escaped {
        out.push('\\');
    }
    out
}

fn first_sentence(error: &regex_syntax::Error) -> String {
    let message = error.to_string();
    let last = message.lines().last().unwrap_or_default();
    last.strip_prefix("error: ").unwrap_or(last).to_owned()
}
