//! Ranges of files of one pinned revision, read until they are whole; and the headers of a checkpoint, read before anything
//! is downloaded.

use std::collections::BTreeSet;
use std::io::Read;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::SystemTime;

use cuvier_weights::{Header, HeaderEntry, Index, ModelConfig, WeightsError};

use crate::answer::{Verdict, identity, judge};
use crate::client::{Fault, Opened, fault_of};
use crate::watch::{Event, Watch, watched};
use crate::{Client, HubError, Listing, RemoteFile, RepoId, Revision};

/// Bytes taken from a connection at once.
const PIECE: usize = 64 << 10;
/// More than the config of any model.
const CONFIG_BYTES_MAX: u64 = 16 << 20;
/// All headers and the index of a checkpoint together: a hub that lies about them cannot fill the memory.
const HEADERS_BYTES_MAX: u64 = 512 << 20;
const CONFIG: &str = "config.json";
const INDEX: &str = "model.safetensors.index.json";
const SINGLE: &str = "model.safetensors";

/// Takes the bytes of a range in order.
pub(crate) trait Sink {
    fn take(&mut self, bytes: &[u8]) -> Result<(), HubError>;

    /// The server sends the whole file where a range was asked for. Which range to read out of it instead; `None`: none,
    /// somebody else reads it. After this the bytes of that range follow from its start.
    fn widen(&mut self) -> Option<Range<u64>>;
}

/// One revision at the hub.
pub(crate) struct Remote<'a> {
    pub(crate) client: &'a Client,
    pub(crate) repo: &'a RepoId,
    pub(crate) commit: &'a str,
    pub(crate) watch: &'a Watch,
}

/// How one try ended, if not by a fault.
enum Try {
    Whole,
    Absorbed,
}

impl Remote<'_> {
    /// Reads `range` of `file` into `sink`, in as many tries as it takes; each goes on where the last ended.
    ///
    /// # Errors
    /// If the tries are used up, or the hub contradicts its list.
    pub(crate) fn read(
        &self,
        file: &RemoteFile,
        range: Range<u64>,
        sink: &mut dyn Sink,
    ) -> Result<(), HubError> {
        let mut rest = range;
        let mut retries = self.client.retries();
        while !rest.is_empty() {
            self.watch.check()?;
            let before = rest.start;
            match self.read_once(file, &mut rest, sink) {
                Ok(Try::Whole | Try::Absorbed) => return Ok(()),
                Err(fault) => {
                    if rest.start > before {
                        retries.progressed();
                    }
                    self.client.wait(file.name.as_str(), fault, &mut retries, self.watch)?;
                }
            }
        }
        Ok(())
    }

    fn read_once(&self, file: &RemoteFile, rest: &mut Range<u64>, sink: &mut dyn Sink) -> Result<Try, Fault> {
        let url = self.client.endpoint().file(self.repo, self.commit, &file.name);
        let Opened { hub_heads, head, is_hub, body } =
            self.client.open(file.name.as_str(), &url, Some(rest))?;
        for hub_head in hub_heads.iter().filter(|head| head.status < 400) {
            identity(file, self.commit, hub_head)?;
        }
        let mut skip = 0;
        match judge(file, rest, &head, is_hub, SystemTime::now()) {
            Verdict::Part => {}
            Verdict::Whole => {
                if *rest != (0..file.size) {
                    let Some(wider) = sink.widen() else { return Ok(Try::Absorbed) };
                    *rest = wider;
                }
                skip = rest.start;
            }
            verdict => return Err(fault_of(verdict)),
        }
        let mut reader = body.into_reader();
        let mut piece = vec![0; PIECE];
        while skip > 0 || !rest.is_empty() {
            self.watch.check()?;
            let wanted = if skip > 0 { skip } else { rest.end - rest.start };
            // At most `PIECE`, so the casts are exact.
            let room = wanted.min(PIECE as u64) as usize;
            let came = match reader.read(&mut piece[..room]) {
                Ok(0) => return Err(cut(format!("the answer ended {wanted} bytes early"))),
                Ok(came) => came,
                Err(error) => return Err(cut(error.to_string())),
            };
            if skip > 0 {
                skip -= came as u64;
            } else {
                sink.take(&piece[..came])?;
                rest.start += came as u64;
            }
        }
        // Reading the end of the answer frees its connection for the next. Bytes behind what was asked for are left.
        let _ = reader.read(&mut piece[..1]);
        Ok(Try::Whole)
    }

    /// A range in memory.
    fn bytes(&self, file: &RemoteFile, range: Range<u64>) -> Result<Vec<u8>, HubError> {
        let mut sink = Memory { bytes: Vec::new(), range: range.clone() };
        self.read(file, range, &mut sink)?;
        Ok(sink.bytes)
    }

    /// A small file in memory, its hash checked.
    fn small(&self, file: &RemoteFile, bytes_max: u64) -> Result<String, HubError> {
        if file.size > bytes_max {
            let problem = format!("`{}` of {} bytes exceeds the limit of {bytes_max}", file.name, file.size);
            return Err(HubError::Listing { repo: self.repo.to_string(), problem });
        }
        let bytes = self.bytes(file, 0..file.size)?;
        let got = file.id.same_kind_of(&bytes);
        if got != file.id {
            let (file, want) = (file.name.to_string(), file.id.to_string());
            return Err(HubError::Changed { file, fact: "the hash", want, got: got.to_string() });
        }
        String::from_utf8(bytes).map_err(|_| HubError::Listing {
            repo: self.repo.to_string(),
            problem: format!("`{}` is not UTF-8", file.name),
        })
    }
}

fn cut(reason: String) -> Fault {
    Fault::Again { reason, after: None }
}

struct Memory {
    bytes: Vec<u8>,
    range: Range<u64>,
}

impl Sink for Memory {
    fn take(&mut self, bytes: &[u8]) -> Result<(), HubError> {
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn widen(&mut self) -> Option<Range<u64>> {
        self.bytes.clear();
        Some(self.range.clone())
    }
}

/// A checkpoint at a hub, as far as its headers tell.
#[derive(Debug)]
pub struct RemoteCheckpoint {
    /// The commit that was looked at.
    pub commit: String,
    /// Its config.
    pub config: ModelConfig,
    /// Its shards, by name.
    pub shards: Vec<RemoteShard>,
    /// Bytes of everything that [`pull`](crate::pull()) would fetch.
    pub download_bytes: u64,
}

/// One safetensors file at a hub.
#[derive(Debug)]
pub struct RemoteShard {
    /// Its name.
    pub file: String,
    /// Its bytes.
    pub bytes: u64,
    /// Its tensors.
    pub entries: Vec<HeaderEntry>,
}

/// Reads `config.json`, the index and the header of each shard, and nothing of the weights. `observe` is told of retries,
/// and says whether to go on; it is also called with nothing, several times a second.
///
/// # Errors
/// If the hub cannot be reached, contradicts itself, or what it has is not a checkpoint of this architecture.
pub fn remote_headers(
    client: &Client,
    repo: &RepoId,
    revision: &Revision,
    observe: &mut dyn FnMut(Option<Event>) -> bool,
) -> Result<RemoteCheckpoint, HubError> {
    watched(client, observe, |watch| {
        let listing = client.list(repo, revision, watch)?;
        let remote = Remote { client, repo, commit: &listing.commit, watch };
        let config =
            ModelConfig::parse(&remote.small(find(&listing, repo, CONFIG)?, CONFIG_BYTES_MAX)?, CONFIG)?;
        let shards = shards(&remote, &listing)?;
        let download_bytes = listing.files.iter().map(|file| file.size).sum();
        Ok(RemoteCheckpoint { commit: listing.commit.clone(), config, shards, download_bytes })
    })
}

fn find<'a>(listing: &'a Listing, repo: &RepoId, name: &str) -> Result<&'a RemoteFile, HubError> {
    listing.find(name).ok_or_else(|| HubError::Listing {
        repo: repo.to_string(),
        problem: format!("there is no `{name}`, so it is not a checkpoint that this program reads"),
    })
}

fn shards(remote: &Remote<'_>, listing: &Listing) -> Result<Vec<RemoteShard>, HubError> {
    let names: BTreeSet<String> = match listing.find(INDEX) {
        Some(index) => {
            let index = Index::parse(&remote.small(index, HEADERS_BYTES_MAX)?, INDEX)?;
            index.shards().into_iter().map(str::to_owned).collect()
        }
        None => BTreeSet::from([SINGLE.to_owned()]),
    };
    let files: Result<Vec<&RemoteFile>, HubError> =
        names.iter().map(|name| find(listing, remote.repo, name)).collect();
    let files = files?;
    let (next, budget) = (AtomicUsize::new(0), Mutex::new(HEADERS_BYTES_MAX));
    let read = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..remote.client.connections().get().min(files.len()) {
            scope.spawn(|| {
                while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let shard = header(remote, file, &budget);
                    let failed = shard.is_err();
                    read.lock().unwrap_or_else(PoisonError::into_inner).push(shard);
                    if failed {
                        // The others would only take longer to say no.
                        next.store(files.len(), Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let read = read.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut shards = read.into_iter().collect::<Result<Vec<RemoteShard>, HubError>>()?;
    shards.sort_by(|a, b| a.file.cmp(&b.file));
    Ok(shards)
}

/// The header of one shard: its length first, then no more than that.
fn header(remote: &Remote<'_>, file: &RemoteFile, budget: &Mutex<u64>) -> Result<RemoteShard, HubError> {
    let name = file.name.as_str();
    let prefix = remote.bytes(file, 0..8.min(file.size))?;
    let broken = |problem: String| WeightsError::Header { file: name.to_owned(), problem };
    let prefix = *prefix.first_chunk().ok_or_else(|| broken("is shorter than its own length".to_owned()))?;
    let head_bytes = Header::head_bytes(prefix, name)?;
    if head_bytes > file.size {
        return Err(broken(format!("header of {head_bytes} bytes in a file of {}", file.size)).into());
    }
    {
        let mut left = budget.lock().unwrap_or_else(PoisonError::into_inner);
        *left = left
            .checked_sub(head_bytes)
            .ok_or_else(|| broken(format!("all headers together exceed {HEADERS_BYTES_MAX} bytes")))?;
    }
    let head = remote.bytes(file, 0..head_bytes)?;
    let entries = Header::parse_head(&head, file.size, name)?.entries;
    Ok(RemoteShard { file: name.to_owned(), bytes: file.size, entries })
}
