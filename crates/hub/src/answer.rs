//! What to make of an answer to a request for a range of a file: pure, from status and headers alone.

use std::ops::Range;
use std::time::{Duration, SystemTime};

use crate::{ContentId, HubError, RemoteFile};

/// The part of an answer before its body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) status: u16,
    pub(crate) content_length: Option<u64>,
    pub(crate) content_range: Option<String>,
    pub(crate) content_encoding: Option<String>,
    pub(crate) location: Option<String>,
    pub(crate) etag: Option<String>,
    pub(crate) linked_etag: Option<String>,
    pub(crate) linked_size: Option<u64>,
    pub(crate) commit: Option<String>,
    pub(crate) retry_after: Option<String>,
}

/// What an answer is good for.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// The body is the range that was asked for.
    Part,
    /// The body is the whole file: the server does not know ranges.
    Whole,
    /// Nothing now; asking again may help, not before this much time where the server says so.
    Again { reason: String, after: Option<Duration> },
    /// Nothing, ever.
    Never(HubError),
}

/// Judges the answer to a request for `range` of `file`. `is_hub`: the hub itself answered, not a server that it sent us
/// to, whose addresses expire and whose refusals may pass.
pub(crate) fn judge(
    file: &RemoteFile,
    range: &Range<u64>,
    head: &Head,
    is_hub: bool,
    now: SystemTime,
) -> Verdict {
    let again = |reason: String| Verdict::Again { reason, after: None };
    let changed = |fact, want: String, got: String| {
        Verdict::Never(HubError::Changed { file: file.name.to_string(), fact, want, got })
    };
    if matches!(head.status, 200 | 206) && head.content_encoding.as_ref().is_some_and(|how| how != "identity")
    {
        return again("bytes in an encoding that nobody asked for".to_owned());
    }
    match head.status {
        206 => match head.content_range.as_deref().and_then(parse_content_range) {
            Some((_, size)) if size != file.size => {
                changed("a size of", file.size.to_string(), format!("{size} in Content-Range"))
            }
            Some((got, _)) if got != *range => again(format!("bytes {got:?} where {range:?} were asked for")),
            None => again("part of a file without a Content-Range that says which".to_owned()),
            Some(_) if head.content_length.is_some_and(|length| length != range.end - range.start) => {
                again("a Content-Length that contradicts its Content-Range".to_owned())
            }
            Some(_) => Verdict::Part,
        },
        200 => match head.content_length {
            Some(length) if length != file.size => {
                changed("a size of", file.size.to_string(), format!("{length} in Content-Length"))
            }
            _ => Verdict::Whole,
        },
        416 => changed("a size of", file.size.to_string(), format!("no bytes at {}", range.start)),
        _ => refusal(file.name.as_str(), head, is_hub, now),
    }
}

/// Judges an answer that brings nothing.
pub(crate) fn refusal(what: &str, head: &Head, is_hub: bool, now: SystemTime) -> Verdict {
    let hint = match head.status {
        // An address that the hub signed has expired: it signs a new one.
        401 | 403 | 404 | 410 if !is_hub => {
            return Verdict::Again {
                reason: format!("status {} from the file's server", head.status),
                after: None,
            };
        }
        408 | 425 | 429 | 500.. => {
            let after = head.retry_after.as_deref().and_then(|text| parse_retry_after(text, now));
            return Verdict::Again { reason: format!("status {}", head.status), after };
        }
        401 => "a token is needed, or the repository does not exist",
        403 => "the token may not read this: accept the model's terms on its page, or use another token",
        404 => "there is no such repository, revision or file",
        _ => "an answer that this program does not know",
    };
    Verdict::Never(HubError::Refused { what: what.to_owned(), status: head.status, hint })
}

/// What the hub's own answer says of a file, against what its list said. Only etags that are hashes are looked at: others
/// say nothing that the list could be compared with.
pub(crate) fn identity(file: &RemoteFile, commit: &str, head: &Head) -> Result<(), HubError> {
    let changed = |fact, want: String, got: String| {
        Err(HubError::Changed { file: file.name.to_string(), fact, want, got })
    };
    if let Some(got) = head.commit.as_deref().filter(|got| *got != commit) {
        return changed("the commit", commit.to_owned(), got.to_owned());
    }
    if let Some(got) = head.linked_size.filter(|got| *got != file.size) {
        return changed("a size of", file.size.to_string(), got.to_string());
    }
    let etag = head.linked_etag.as_ref().or(head.etag.as_ref());
    match etag.and_then(|etag| ContentId::parse_hex(etag.trim_start_matches("W/").trim_matches('"'))) {
        Some(got) if got != file.id && same_kind(&got, &file.id) => {
            changed("the hash", file.id.to_string(), got.to_string())
        }
        _ => Ok(()),
    }
}

fn same_kind(a: &ContentId, b: &ContentId) -> bool {
    std::mem::discriminant(a) == std::mem::discriminant(b)
}

/// `bytes FIRST-LAST/SIZE`.
fn parse_content_range(text: &str) -> Option<(Range<u64>, u64)> {
    let (range, size) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last, size): (u64, u64, u64) = (first.parse().ok()?, last.parse().ok()?, size.parse().ok()?);
    Some((first..last.checked_add(1)?, size))
}

/// Seconds, or a date.
fn parse_retry_after(text: &str, now: SystemTime) -> Option<Duration> {
    match text.trim().parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => httpdate::parse_http_date(text.trim()).ok()?.duration_since(now).ok(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;
    use crate::FileName;

    fn file() -> RemoteFile {
        let name = FileName::parse("a.safetensors").unwrap();
        RemoteFile { name, size: 100, id: ContentId::Sha256([1; 32]) }
    }

    fn judged(head: &Head) -> Verdict {
        judge(&file(), &(10..20), head, true, SystemTime::UNIX_EPOCH)
    }

    fn part(content_range: &str) -> Head {
        Head { status: 206, content_range: Some(content_range.to_owned()), ..Head::default() }
    }

    #[test]
    fn only_the_range_that_was_asked_for_is_taken() {
        assert!(matches!(judged(&part("bytes 10-19/100")), Verdict::Part));
        for other in ["bytes 0-9/100", "bytes 10-20/100", "bytes 10-18/100", "bytes */100", "", "10-19/100"] {
            assert!(matches!(judged(&part(other)), Verdict::Again { .. }), "{other}");
        }
        let short = Head { content_length: Some(9), ..part("bytes 10-19/100") };
        assert!(matches!(judged(&short), Verdict::Again { .. }));
    }

    #[test]
    fn another_size_than_the_listed_ends_it() {
        assert!(matches!(judged(&part("bytes 10-19/99")), Verdict::Never(HubError::Changed { .. })));
        let whole = |length| Head { status: 200, content_length: length, ..Head::default() };
        assert!(matches!(judged(&whole(Some(101))), Verdict::Never(HubError::Changed { .. })));
        assert!(matches!(judged(&whole(Some(100))), Verdict::Whole));
        assert!(matches!(judged(&whole(None)), Verdict::Whole));
        let head = Head { status: 416, ..Head::default() };
        assert!(matches!(judged(&head), Verdict::Never(HubError::Changed { .. })));
    }

    #[test]
    fn a_server_that_is_busy_says_when_to_come_back() {
        let busy = |text: &str| Head { status: 429, retry_after: Some(text.to_owned()), ..Head::default() };
        let after = |text: &str| match judged(&busy(text)) {
            Verdict::Again { after, .. } => after,
            other => panic!("{other:?}"),
        };
        assert_eq!(after("7"), Some(Duration::from_secs(7)));
        assert_eq!(after("Thu, 01 Jan 1970 00:01:00 GMT"), Some(Duration::from_secs(60)));
        assert_eq!(after("soon"), None);
    }

    #[test]
    fn a_refusal_is_final_from_the_hub_and_may_pass_behind_it() {
        let head = Head { status: 403, ..Head::default() };
        assert!(matches!(refusal("a", &head, true, SystemTime::now()), Verdict::Never(_)));
        assert!(matches!(refusal("a", &head, false, SystemTime::now()), Verdict::Again { .. }));
    }

    #[test]
    fn a_hash_size_or_commit_that_differs_from_the_list_is_found() {
        let commit = "c".repeat(40);
        let check = |head: Head| identity(&file(), &commit, &head);
        let hash = |byte: &str| Some(format!("\"{}\"", byte.repeat(32)));
        assert!(check(Head::default()).is_ok());
        assert!(check(Head { linked_etag: hash("01"), etag: hash("02"), ..Head::default() }).is_ok());
        assert!(check(Head { etag: Some("\"d41d8-5\"".to_owned()), ..Head::default() }).is_ok());
        assert!(check(Head { linked_etag: hash("02"), ..Head::default() }).is_err());
        assert!(check(Head { etag: hash("02"), ..Head::default() }).is_err());
        assert!(check(Head { linked_size: Some(99), ..Head::default() }).is_err());
        assert!(check(Head { commit: Some("d".repeat(40)), ..Head::default() }).is_err());
    }

    proptest! {
        #[test]
        fn no_header_makes_anything_here_panic(text in "\\PC{0,40}", status in 0_u16..600) {
            let text = Some(text);
            let head = Head {
                status, content_range: text.clone(), etag: text.clone(), retry_after: text, ..Head::default()
            };
            let _ = judged(&head);
            let _ = identity(&file(), "c", &head);
        }

        #[test]
        fn numbers_of_any_size_are_compared_and_not_added_up(first: u64, last: u64, size: u64) {
            let _ = judged(&part(&format!("bytes {first}-{last}/{size}")));
        }
    }
}
