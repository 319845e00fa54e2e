//! Folders that are whole or not there.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::SaveError;

/// What to do with a folder that is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Existing {
    /// It is what an earlier run wrote under this name: take its place.
    Replace,
    /// It may be anyone's: refuse, unless it is empty.
    Refuse,
}

/// Makes `target` by filling a folder beside it, bringing that to the disk and renaming it. Files that `fill` writes
/// must be on the disk when it returns. What a run that was cut off left beside it is removed.
pub(super) fn make(
    target: &Path,
    existing: Existing,
    fill: impl FnOnce(&Path) -> Result<(), SaveError>,
) -> Result<(), SaveError> {
    if existing == Existing::Refuse && !is_absent_or_empty(target)? {
        let source = io::Error::other("the folder is not empty");
        return Err(SaveError::io(target, "writing a checkpoint")(source));
    }
    let part = beside(target);
    let parent = parent_of(target);
    fs::create_dir_all(&parent).map_err(SaveError::io(&parent, "creating"))?;
    remove(&part)?;
    fs::create_dir(&part).map_err(SaveError::io(&part, "creating"))?;
    let result = fill(&part).and_then(|()| sync(&part)).and_then(|()| {
        remove(target)?;
        fs::rename(&part, target).map_err(SaveError::io(target, "renaming into place"))?;
        sync(&parent)
    });
    if result.is_err() {
        // The error already under way says more than a failure to clean up would.
        let _ = fs::remove_dir_all(&part);
    }
    result
}

/// Writes a file to the disk.
pub(super) fn write_file(path: &Path, bytes: &[u8]) -> Result<(), SaveError> {
    let write = || {
        let mut file = File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(SaveError::io(path, "writing"))
}

/// Removes a folder, if it is there.
pub(super) fn remove(folder: &Path) -> Result<(), SaveError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(SaveError::io(folder, "removing")(error))
        }
        _ => Ok(()),
    }
}

fn is_absent_or_empty(folder: &Path) -> Result<bool, SaveError> {
    match fs::read_dir(folder) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(SaveError::io(folder, "reading")(error)),
    }
}

fn beside(target: &Path) -> PathBuf {
    let mut name = target.file_name().map_or_else(|| OsString::from("checkpoint"), OsString::from);
    name.push(".part");
    target.with_file_name(name)
}

/// The folder of a bare name is the current one.
fn parent_of(target: &Path) -> PathBuf {
    match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Brings the names in a folder to the disk, where the system can.
fn sync(folder: &Path) -> Result<(), SaveError> {
    if cfg!(unix) {
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(SaveError::io(folder, "syncing"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).expect("a folder");
        let mut names: Vec<String> = entries
            .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_folder_appears_whole_or_not_at_all() {
        let out = tempfile::tempdir().expect("a folder");
        let target = out.path().join("new").join("a");
        let failed = make(&target, Existing::Refuse, |part| {
            write_file(&part.join("x"), b"1")?;
            Err(SaveError::tensor(part, "w", "is broken"))
        });
        assert!(failed.is_err());
        assert_eq!(names(&out.path().join("new")), [""; 0]);
        make(&target, Existing::Refuse, |part| write_file(&part.join("x"), b"1")).expect("written");
        assert_eq!(names(&out.path().join("new")), ["a"]);
        assert_eq!(names(&target), ["x"]);
    }

    #[test]
    fn what_is_there_is_replaced_only_where_that_was_asked_for() {
        let out = tempfile::tempdir().expect("a folder");
        let target = out.path().join("a");
        // Left by a run that was cut off.
        fs::create_dir(out.path().join("a.part")).expect("made");
        write_file(&out.path().join("a.part").join("old"), b"").expect("written");
        make(&target, Existing::Replace, |part| write_file(&part.join("x"), b"")).expect("written");
        assert_eq!(names(&target), ["x"]);
        let refused = make(&target, Existing::Refuse, |_| Ok(())).expect_err("not empty").to_string();
        assert!(refused.ends_with("writing a checkpoint: the folder is not empty"), "{refused}");
        make(&target, Existing::Replace, |part| write_file(&part.join("y"), b"")).expect("written");
        assert_eq!(names(&target), ["y"]);
    }
}
