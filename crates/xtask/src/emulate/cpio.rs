//! The kernel's first file system: a `newc` archive.

use std::io::{self, Write};

const REGULAR: u32 = 0o100_000;
const FOLDER: u32 = 0o040_000;
const DEVICE: u32 = 0o020_000;

/// An archive that is being written.
pub struct Archive<W> {
    out: W,
    entries: u32,
}

impl<W: Write> Archive<W> {
    /// An empty one with the folders that an init needs and the console that it speaks to.
    pub fn start(out: W) -> io::Result<Self> {
        let mut archive = Self { out, entries: 0 };
        for folder in ["bin", "dev", "proc", "sys", "tmp"] {
            archive.entry(folder, FOLDER | 0o755, (0, 0), &[])?;
        }
        archive.entry("dev/console", DEVICE | 0o600, (5, 1), &[])?;
        Ok(archive)
    }

    /// Adds a folder.
    pub fn folder(&mut self, name: &str) -> io::Result<()> {
        self.entry(name, FOLDER | 0o755, (0, 0), &[])
    }

    /// Adds a file that can be run.
    pub fn program(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
        self.entry(name, REGULAR | 0o755, (0, 0), content)
    }

    /// Writes the end.
    pub fn finish(mut self) -> io::Result<()> {
        self.entry("TRAILER!!!", 0, (0, 0), &[])?;
        self.out.flush()
    }

    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), content: &[u8]) -> io::Result<()> {
        self.entries += 1;
        let size = u32::try_from(content.len()).map_err(io::Error::other)?;
        let name_size = u32::try_from(name.len() + 1).map_err(io::Error::other)?;
        write!(self.out, "070701")?;
        // inode, mode, user, group, links, time, size, the device it is on, the device it is, name, checksum
        for field in [self.entries, mode, 0, 0, 1, 0, size, 0, 0, device.0, device.1, name_size, 0] {
            write!(self.out, "{field:08X}")?;
        }
        self.out.write_all(name.as_bytes())?;
        // The name ends with a zero; what follows starts at a multiple of four, as the content's end does.
        let used = 6 + 13 * 8 + name.len() + 1;
        self.out.write_all(&[0; 4][..1 + used.next_multiple_of(4) - used])?;
        self.out.write_all(content)?;
        self.out.write_all(&[0; 4][..content.len().next_multiple_of(4) - content.len()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_starts_at_a_multiple_of_four() {
        for length in 0..5 {
            let mut bytes = Vec::new();
            let mut archive = Archive::start(&mut bytes).expect("memory takes it");
            archive.program(&"name"[..length.min(4)], &[7; 5][..length]).expect("memory takes it");
            archive.finish().expect("memory takes it");
            assert_eq!(bytes.len() % 4, 0);
            let starts: Vec<_> = bytes.windows(6).enumerate().filter(|(_, six)| six == b"070701").collect();
            assert_eq!(starts.len(), 8);
            assert!(starts.iter().all(|(at, _)| at % 4 == 0));
        }
    }
}
