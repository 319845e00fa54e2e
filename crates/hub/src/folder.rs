//! The folder that is filled: one download at a time, no link followed out of it.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use crate::{FileName, HubError};

const LOCK: &str = ".cuvier-pull.lock";

/// A folder that this download alone fills, as long as it lives.
pub(crate) struct Folder {
    path: PathBuf,
    _lock: File,
}

impl Folder {
    /// Makes the folder if it is not there, and locks it.
    pub(crate) fn open(path: &Path) -> Result<Self, HubError> {
        fs::create_dir_all(path).map_err(HubError::io(path, "making the folder"))?;
        let lock_path = path.join(LOCK);
        check_plain_file(&lock_path)?;
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&lock_path);
        let lock = lock.map_err(HubError::io(&lock_path, "opening"))?;
        match lock.try_lock() {
            Err(TryLockError::WouldBlock) => Err(HubError::Busy { folder: path.to_owned() }),
            // A file system that knows no locks is no reason not to download to it.
            Ok(()) | Err(TryLockError::Error(_)) => Ok(Self { path: path.to_owned(), _lock: lock }),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Where `name` is to be, with the folders that lead there made. Neither they nor the file, its partial form or its
    /// journal are links.
    pub(crate) fn place(&self, name: &FileName) -> Result<Place, HubError> {
        let file = name.within(&self.path);
        let mut folder = self.path.clone();
        let components: Vec<&str> = name.components().collect();
        for component in components.split_last().map_or(&[][..], |(_, folders)| folders) {
            folder.push(component);
            match fs::symlink_metadata(&folder) {
                Ok(metadata) if metadata.is_dir() => {}
                Ok(_) => return Err(HubError::NotPlain { path: folder, want: "folder" }),
                Err(_) => fs::create_dir(&folder).map_err(HubError::io(&folder, "making the folder"))?,
            }
        }
        let with = |ending: &str| {
            let mut path = file.clone().into_os_string();
            path.push(ending);
            PathBuf::from(path)
        };
        let place = Place { part: with(".part"), journal: with(".part.journal"), folder, file };
        for path in [&place.file, &place.part, &place.journal] {
            check_plain_file(path)?;
        }
        Ok(place)
    }

    /// Refuses what the disk has no room for.
    pub(crate) fn check_space(&self, need: u64) -> Result<(), HubError> {
        let free =
            fs4::available_space(&self.path).map_err(HubError::io(&self.path, "asking for free space"))?;
        if need > free {
            return Err(HubError::Space { folder: self.path.clone(), need, free });
        }
        Ok(())
    }
}

/// The paths of one file.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) folder: PathBuf,
    pub(crate) file: PathBuf,
    pub(crate) part: PathBuf,
    pub(crate) journal: PathBuf,
}

impl Place {
    /// The partial file becomes the file, also after a loss of power.
    pub(crate) fn publish(&self) -> Result<(), HubError> {
        let part =
            OpenOptions::new().write(true).open(&self.part).map_err(HubError::io(&self.part, "opening"))?;
        part.sync_all().map_err(HubError::io(&self.part, "writing to the disk"))?;
        fs::rename(&self.part, &self.file).map_err(HubError::io(&self.file, "renaming"))?;
        sync_folder(&self.folder)?;
        remove(&self.journal)
    }

    /// Throws away what has come.
    pub(crate) fn discard(&self) -> Result<(), HubError> {
        remove(&self.journal)?;
        remove(&self.part)
    }
}

/// Writes a small file whole or not at all.
pub(crate) fn write_whole(path: &Path, text: &[u8]) -> Result<(), HubError> {
    let mut beside = path.to_owned().into_os_string();
    beside.push(".part");
    let beside = PathBuf::from(beside);
    check_plain_file(path)?;
    check_plain_file(&beside)?;
    fs::write(&beside, text).map_err(HubError::io(&beside, "writing"))?;
    let written = OpenOptions::new().write(true).open(&beside).and_then(|file| file.sync_all());
    written.map_err(HubError::io(&beside, "writing to the disk"))?;
    fs::rename(&beside, path).map_err(HubError::io(path, "renaming"))?;
    path.parent().map_or(Ok(()), sync_folder)
}

/// Bytes of a plain file; `None` if there is nothing.
pub(crate) fn length(path: &Path) -> Result<Option<u64>, HubError> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_file() => Ok(Some(metadata.len())),
        Ok(_) => Err(HubError::NotPlain { path: path.to_owned(), want: "file" }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(HubError::io(path, "looking at it")(error)),
    }
}

fn check_plain_file(path: &Path) -> Result<(), HubError> {
    length(path).map(|_| ())
}

fn remove(path: &Path) -> Result<(), HubError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(HubError::io(path, "removing")(error)),
        _ => Ok(()),
    }
}

/// Makes a rename last. Systems on which a folder cannot be opened do so by themselves.
fn sync_folder(folder: &Path) -> Result<(), HubError> {
    match File::open(folder) {
        Ok(opened) => opened.sync_all().map_err(HubError::io(folder, "writing to the disk")),
        Err(_) => Ok(()),
    }
}
