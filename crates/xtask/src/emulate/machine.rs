//! The emulated machine: what it boots from, and how it is started and stopped.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::{call_in, quietly};
use crate::process::{last_lines, output};

/// Files that must be there, and the Debian packages that bring them.
const NEEDED: [(&str, &str); 7] = [
    ("/usr/bin/bochs-bin", "bochs"),
    ("/usr/share/bochs/BIOS-bochs-latest", "bochsbios"),
    ("/usr/lib/x86_64-linux-gnu/bochs/plugins/libbx_term_gui.so", "bochs-term"),
    ("/usr/lib/ISOLINUX/isolinux.bin", "isolinux"),
    ("/usr/lib/syslinux/modules/bios/ldlinux.c32", "syslinux-common"),
    ("/usr/bin/xorriso", "xorriso"),
    ("/usr/bin/busybox", "busybox-static"),
];

/// Depends on the kernel that is current.
const KERNEL: &str = "linux-image-cloud-amd64";

/// Flags that Bochs 2.7 reports and that a kernel takes for more than they are.
///
/// `xsaves` and `xsavec`: CPUID gives the size of the standard format for the compacted one, and the kernel turns AVX
/// off. `pku`: its part of that area has size 0, with the same end. `fsrm` without fast strings (the BIOS leaves them
/// off): `memmove` of this kernel loses its end and overwrites everything. `aperfmperf`: registers that are not there.
const KERNEL_ARGUMENTS: &str = "console=ttyS0 quiet mitigations=off nokaslr nopti tsc=reliable \
     clearcpuid=pku,aperfmperf,xsaves,xsavec,fsrm random.trust_cpu=on panic=-1 rdinit=/init";

/// Simulated instructions per second of simulated time: few, so that the BIOS waits for few.
const INSTRUCTIONS_PER_SECOND: u32 = 20_000_000;
const MEMORY_MIB: u32 = 512;

/// A work folder with everything but the programs in it.
pub struct Machine {
    pub dir: PathBuf,
    pub busybox: PathBuf,
    configuration: String,
}

/// Names what is missing, all at once.
pub fn check_programs() -> anyhow::Result<()> {
    let missing: Vec<_> =
        NEEDED.iter().filter(|(file, _)| !Path::new(file).exists()).map(|(_, package)| *package).collect();
    if !missing.is_empty() {
        bail!("Debian packages are missing: apt-get install {}", missing.join(" "));
    }
    Ok(())
}

impl Machine {
    /// Fetches the kernel, unless it is there, and writes how to boot it.
    pub fn prepare(dir: PathBuf, cpu: &str) -> anyhow::Result<Self> {
        let disc = dir.join("disc");
        fs::create_dir_all(disc.join("isolinux")).with_context(|| disc.display().to_string())?;
        if !disc.join("vmlinuz").exists() {
            fetch_kernel(&dir, &disc.join("vmlinuz"))?;
        }
        for (file, _) in &NEEDED[3..5] {
            let name = Path::new(file).file_name().context("a file has a name")?;
            fs::copy(file, disc.join("isolinux").join(name)).with_context(|| (*file).to_owned())?;
        }
        let boot = format!(
            "DEFAULT tests\nPROMPT 0\nLABEL tests\n  KERNEL /vmlinuz\n  INITRD /initrd\n  APPEND {KERNEL_ARGUMENTS}\n"
        );
        fs::write(disc.join("isolinux/isolinux.cfg"), boot)?;
        Ok(Self { dir, busybox: PathBuf::from(NEEDED[6].0), configuration: configuration(cpu) })
    }

    /// Makes the disc that the machine boots from.
    pub fn write_disc(&self) -> anyhow::Result<()> {
        let boot = ["-b", "isolinux/isolinux.bin", "-c", "isolinux/boot.cat", "-no-emul-boot"];
        let table = ["-boot-load-size", "4", "-boot-info-table", "disc"];
        let mut xorriso = Command::new("xorriso");
        xorriso
            .current_dir(&self.dir)
            .args(["-as", "mkisofs", "-quiet", "-o", "disc.iso"])
            .args(boot)
            .args(table);
        quietly(&mut xorriso)
    }

    /// Runs until the machine powers off; what it wrote to its serial line.
    pub fn boot(&self, minutes: u64) -> anyhow::Result<String> {
        let serial = self.dir.join("serial.txt");
        if serial.exists() {
            fs::remove_file(&serial)?;
        }
        fs::write(self.dir.join("bochsrc"), &self.configuration)?;
        // Debian builds Bochs with its debugger, which waits for a command.
        fs::write(self.dir.join("commands"), "c\n")?;
        eprintln!("booting; {} grows", serial.display());
        let screen = fs::File::create(self.dir.join("screen.txt"))?;
        // `bochs` is a script; the emulator itself is what must be stopped.
        let mut child = Command::new("bochs-bin")
            .current_dir(&self.dir)
            .args(["-q", "-f", "bochsrc", "-rc", "commands"])
            .env("TERM", "vt100")
            .stdin(Stdio::null())
            .stdout(screen.try_clone()?)
            .stderr(screen)
            .spawn()
            .context("bochs-bin")?;
        let start = Instant::now();
        while child.try_wait()?.is_none() {
            if start.elapsed() > Duration::from_secs(60 * minutes) {
                child.kill()?;
                child.wait()?;
                let said = String::from_utf8_lossy(&fs::read(&serial).unwrap_or_default()).into_owned();
                bail!("not done after {minutes} minutes; the end of the line:\n{}", last_lines(&said));
            }
            thread::sleep(Duration::from_millis(500));
        }
        let bytes = fs::read(&serial).context("the emulated machine wrote nothing; see bochs.log")?;
        let said = String::from_utf8_lossy(&bytes).replace('\r', "");
        println!("{}", said.lines().filter(|line| line.starts_with("test ")).collect::<Vec<_>>().join("\n"));
        eprintln!("{} s", start.elapsed().as_secs());
        Ok(said)
    }
}

/// The current kernel's image out of its package.
fn fetch_kernel(dir: &Path, to: &Path) -> anyhow::Result<()> {
    let depends = output(Command::new("apt-cache").args(["depends", KERNEL]))?;
    let package = depends.split_whitespace().find(|word| word.starts_with("linux-image-") && *word != KERNEL);
    let package = package.with_context(|| format!("apt knows no {KERNEL}; `apt-get update` first"))?;
    call_in(dir, "apt-get", &["download", package])?;
    let archive = fs::read_dir(dir)?.filter_map(Result::ok).map(|entry| entry.path()).find(|path| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&format!("{package}_")))
    });
    let archive = archive.with_context(|| format!("{package} was not downloaded"))?;
    let unpacked = dir.join("kernel");
    quietly(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(&unpacked))?;
    let version = package.trim_start_matches("linux-image-");
    fs::copy(unpacked.join(format!("boot/vmlinuz-{version}")), to).context("the kernel's image")?;
    fs::remove_dir_all(unpacked)?;
    Ok(fs::remove_file(archive)?)
}

fn configuration(cpu: &str) -> String {
    format!(
        "display_library: term\n\
         romimage: file=/usr/share/bochs/BIOS-bochs-latest\n\
         vgaromimage: file=/usr/share/bochs/VGABIOS-lgpl-latest\n\
         cpu: model={cpu}, count=1, ips={INSTRUCTIONS_PER_SECOND}, reset_on_triple_fault=0\n\
         memory: guest={MEMORY_MIB}, host={MEMORY_MIB}\n\
         clock: sync=none, time0=utc\n\
         ata0-master: type=cdrom, path=disc.iso, status=inserted\n\
         boot: cdrom\n\
         com1: enabled=1, mode=file, dev=serial.txt\n\
         log: bochs.log\n\
         panic: action=fatal\nerror: action=ignore\ninfo: action=ignore\n"
    )
}
