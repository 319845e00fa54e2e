//! What a hub says a revision is: its commit, and the files that a checkpoint needs with their sizes and hashes.

use serde::Deserialize;

use crate::digest::ContentId;
use crate::name::{check_distinct, is_needed};
use crate::{FileName, HubError, RepoId};

/// More files than any checkpoint has.
const FILES_MAX: usize = 20_000;
/// More bytes than any file system holds in one file.
const FILE_BYTES_MAX: u64 = 1 << 53;

/// A revision, pinned to the commit that it was when asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// The commit, in hexadecimal.
    pub commit: String,
    /// What a checkpoint needs of it, by name.
    pub files: Vec<RemoteFile>,
}

/// One file at the hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteFile {
    /// Its name.
    pub name: FileName,
    /// Bytes.
    pub size: u64,
    /// The hash of its content.
    pub id: ContentId,
}

#[derive(Deserialize)]
struct RawListing {
    sha: String,
    siblings: Vec<RawFile>,
}

#[derive(Deserialize)]
struct RawFile {
    rfilename: String,
    size: Option<u64>,
    #[serde(rename = "blobId")]
    blob_id: Option<String>,
    lfs: Option<RawLarge>,
}

#[derive(Deserialize)]
struct RawLarge {
    sha256: String,
    size: Option<u64>,
}

impl Listing {
    /// Reads the hub's answer.
    ///
    /// # Errors
    /// [`HubError::Listing`] if it is not a list, or does not say of a file that is needed how large it is or what its hash
    /// is; [`HubError::Name`] if such a file has an unsafe name.
    pub fn parse(json: &[u8], repo: &RepoId) -> Result<Self, HubError> {
        let wrong = |problem: String| HubError::Listing { repo: repo.to_string(), problem };
        let raw: RawListing = serde_json::from_slice(json).map_err(|error| wrong(error.to_string()))?;
        if !matches!(raw.sha.len(), 40 | 64) || !raw.sha.chars().all(|c| c.is_ascii_hexdigit()) {
            return Err(wrong(format!("{:?} is not a commit", shortened(&raw.sha))));
        }
        let needed = raw.siblings.into_iter().filter(|file| is_needed(&file.rfilename));
        let files: Result<Vec<RemoteFile>, HubError> = needed.map(|file| file.check(&wrong)).collect();
        let mut files = files?;
        if files.is_empty() {
            return Err(wrong("there is no file in it that a checkpoint needs".to_owned()));
        }
        if files.len() > FILES_MAX {
            return Err(wrong(format!(
                "{} files are more than the {FILES_MAX} of any checkpoint",
                files.len()
            )));
        }
        files.sort_by(|a, b| a.name.cmp(&b.name));
        let names: Vec<FileName> = files.iter().map(|file| file.name.clone()).collect();
        check_distinct(&names)?;
        if files.iter().try_fold(0_u64, |sum, file| sum.checked_add(file.size)).is_none() {
            return Err(wrong("sizes that overflow 64 bits".to_owned()));
        }
        Ok(Self { commit: raw.sha, files })
    }

    /// The file of that name.
    pub fn find(&self, name: &str) -> Option<&RemoteFile> {
        self.files.iter().find(|file| file.name.as_str() == name)
    }
}

impl RawFile {
    fn check(self, wrong: &dyn Fn(String) -> HubError) -> Result<RemoteFile, HubError> {
        let name = FileName::parse(&self.rfilename)?;
        let large_size = self.lfs.as_ref().and_then(|lfs| lfs.size);
        let Some(size) = self.size.or(large_size).filter(|&size| size <= FILE_BYTES_MAX) else {
            return Err(wrong(format!("no size that can be of `{name}`")));
        };
        if large_size.is_some_and(|large| large != size) {
            return Err(wrong(format!("two sizes of `{name}`")));
        }
        let id = match (&self.lfs, &self.blob_id) {
            (Some(lfs), _) => {
                ContentId::parse_hex(&lfs.sha256).filter(|id| matches!(id, ContentId::Sha256(_)))
            }
            (None, Some(blob)) => ContentId::parse_hex(blob).filter(|id| matches!(id, ContentId::GitBlob(_))),
            (None, None) => None,
        };
        match id {
            Some(id) => Ok(RemoteFile { name, size, id }),
            None => Err(wrong(format!("no hash of `{name}`, so it could not be checked"))),
        }
    }
}

/// What can be shown of a text that may be of any length.
fn shortened(text: &str) -> String {
    text.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn parse(files: &str) -> Result<Listing, HubError> {
        let json = format!("{{\"sha\":\"{}\",\"siblings\":[{files}]}}", "a".repeat(40));
        Listing::parse(json.as_bytes(), &RepoId::parse("o/r").unwrap())
    }

    fn refusal(files: &str) -> String {
        parse(files).unwrap_err().to_string()
    }

    fn small(name: &str) -> String {
        format!("{{\"rfilename\":\"{name}\",\"size\":3,\"blobId\":\"{}\"}}", "b".repeat(40))
    }

    #[test]
    fn small_files_have_a_git_hash_and_large_ones_a_sha256() {
        let hash = "c".repeat(64);
        let large = format!(
            "{{\"rfilename\":\"model.safetensors\",\"size\":9,\"blobId\":\"x\",\"lfs\":{{\"sha256\":\"{hash}\",\"size\":9}}}}"
        );
        let listing = parse(&format!("{large},{},{}", small("config.json"), small("figure.png"))).unwrap();
        let names: Vec<_> = listing.files.iter().map(|file| file.name.as_str()).collect();
        assert_eq!(names, ["config.json", "model.safetensors"]);
        assert!(matches!(listing.files[0].id, ContentId::GitBlob(_)));
        assert!(matches!(listing.files[1].id, ContentId::Sha256(_)));
    }

    #[test]
    fn a_needed_file_without_size_or_hash_is_refused_by_name() {
        assert!(refusal("{\"rfilename\":\"a.json\",\"size\":3}").contains("no hash of `a.json`"));
        let no_size = format!("{{\"rfilename\":\"a.json\",\"blobId\":\"{}\"}}", "b".repeat(40));
        assert!(refusal(&no_size).contains("no size that can be of `a.json`"));
        let two = format!(
            "{{\"rfilename\":\"a.json\",\"size\":3,\"lfs\":{{\"sha256\":\"{}\",\"size\":4}}}}",
            "c".repeat(64)
        );
        assert!(refusal(&two).contains("two sizes"));
    }

    #[test]
    fn an_unsafe_name_of_a_needed_file_refuses_the_whole_list() {
        assert!(refusal(&small("../../config.json")).contains("nothing was written"));
        assert!(refusal(&small("..\\\\config.json")).contains("nothing was written"));
        assert!(refusal(&format!("{},{}", small("a.json"), small("A.json"))).contains("twice"));
    }

    #[test]
    fn sizes_that_no_disk_has_are_refused() {
        let file = small("a.json").replace(":3", ":18446744073709551615");
        assert!(refusal(&file).contains("no size that can be"));
    }

    proptest! {
        #[test]
        fn no_answer_makes_the_parser_panic(text in "\\PC{0,200}") {
            let _ = Listing::parse(text.as_bytes(), &RepoId::parse("o/r").unwrap());
            let _ = parse(&text);
        }
    }
}
