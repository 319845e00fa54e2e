//! Which files there are, what stands on what, and which go first. Decides; touches no file.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use cuvier_types::TokenId;

use super::format::{Body, FileId, Header, name};
use crate::cache::plan::BLOCK;
use crate::cache::trie::{NodeId, Root, Trie};

/// The files of a folder. Rows stay as long as anything stands on them; over the bound the least recently used tail
/// goes first, and with it the rows that only it needed.
#[derive(Debug)]
pub(crate) struct Index {
    bytes_max: u64,
    bytes: u64,
    /// Tails by their texts; at each block, the rows that hold its segment.
    trie: Trie<FileId, FileId>,
    files: HashMap<FileId, File>,
    /// Tails, the least recently used first.
    by_age: BTreeMap<u64, FileId>,
    now: u64,
}

#[derive(Debug)]
struct File {
    parent: Option<FileId>,
    first_segment: usize,
    bytes: u64,
    /// Files that stand on it.
    children: Vec<FileId>,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Rows {
        /// The nodes of its own segments.
        nodes: Vec<NodeId>,
    },
    Tail {
        at: NodeId,
        is_mark: bool,
        used: u64,
    },
}

/// What has to be read for a state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) tail: FileId,
    pub(crate) n_tokens: usize,
    /// Rows and which of their own segments, in the order of the text.
    pub(crate) rows: Vec<(FileId, Range<usize>)>,
}

/// Where new files of a text go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    /// The rows of the last segment that is there.
    pub(crate) parent: Option<FileId>,
    /// Segments that are there.
    pub(crate) n_segments: usize,
}

impl Index {
    pub(crate) fn new(bytes_max: u64) -> Self {
        Self {
            bytes_max,
            bytes: 0,
            trie: Trie::new(0),
            files: HashMap::new(),
            by_age: BTreeMap::new(),
            now: 0,
        }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// States that are there.
    pub(crate) fn n_tails(&self) -> usize {
        self.by_age.len()
    }

    /// The most tokens of the beginning of `prompt`, but not all of them, that a state holds; 0 if none does.
    pub(crate) fn reach(&self, root: Root, prompt: &[TokenId]) -> usize {
        self.nearest(root, prompt).map_or(0, |(_, n_tokens)| n_tokens)
    }

    /// How many tokens of the beginning of `prompt` some text here begins with too, whether or not a state has them.
    pub(crate) fn known_tokens(&self, root: Root, prompt: &[TokenId]) -> usize {
        self.trie.known(root, prompt)
    }

    fn nearest(&self, root: Root, prompt: &[TokenId]) -> Option<(FileId, usize)> {
        // What was read from disk cannot be taken back.
        let found = self.trie.nearest(root, prompt, prompt.len().saturating_sub(1));
        found.first().map(|found| (found.key, found.len))
    }

    /// What [`Index::reach`] promised; it becomes the most recently used, with the marks on its way.
    pub(crate) fn find(&mut self, root: Root, prompt: &[TokenId]) -> Option<Found> {
        let (tail, n_tokens) = self.nearest(root, prompt)?;
        self.touch_marks(root, &prompt[..n_tokens]);
        self.touch(tail);
        let mut rows = Vec::new();
        let mut end = self.files[&tail].first_segment;
        let mut next = self.files[&tail].parent;
        while let Some(id) = next {
            let file = &self.files[&id];
            rows.push((id, 0..end - file.first_segment));
            (end, next) = (file.first_segment, file.parent);
        }
        rows.reverse();
        Some(Found { tail, n_tokens, rows })
    }

    /// Whether the state of exactly this text is there; it becomes the most recently used then.
    pub(crate) fn refresh(&mut self, root: Root, tokens: &[TokenId]) -> bool {
        let tail = name(root, 0, true, tokens);
        let is_there = self.files.contains_key(&tail);
        if is_there {
            self.touch_marks(root, tokens);
            self.touch(tail);
        }
        is_there
    }

    pub(crate) fn known(&self, root: Root, tokens: &[TokenId]) -> Known {
        let path = self.trie.path(root, tokens);
        let owners: Vec<FileId> = path.iter().skip(1).map_while(|&at| self.trie.payload(at)).collect();
        Known { parent: owners.last().copied(), n_segments: owners.len() }
    }

    /// Names what has to go so that `bytes` more can stand on `parent`, and forgets it; `None` if even everything else
    /// would not be enough.
    pub(crate) fn make_room(&mut self, parent: Option<FileId>, bytes: u64) -> Option<Vec<FileId>> {
        let mut needed = bytes;
        let mut next = parent;
        while let Some(id) = next {
            needed += self.files[&id].bytes;
            next = self.files[&id].parent;
        }
        if needed > self.bytes_max {
            return None;
        }
        let mut gone = Vec::new();
        while self.bytes + bytes > self.bytes_max {
            let Some((_, &oldest)) = self.by_age.first_key_value() else { break };
            self.remove_leaf(oldest, parent, &mut gone);
        }
        Some(gone)
    }

    /// Adds a file that is there by now; as a tail, the most recently used. False: what it stands on is gone or does
    /// not reach so far, what it holds is there already, or its name is another text's.
    pub(crate) fn insert(&mut self, id: FileId, header: &Header) -> bool {
        if self.files.contains_key(&id) {
            return false;
        }
        let Some(start) = self.start_of(header) else { return false };
        let tokens = [self.trie.text(start), header.tokens.clone()].concat();
        if name(header.root, header.first_segment, header.is_tail(), &tokens) != id {
            self.trie.prune(start);
            return false;
        }
        let kind = match &header.body {
            Body::Rows { .. } => {
                if self
                    .trie
                    .below(start, &header.tokens)
                    .into_iter()
                    .any(|at| self.trie.payload(at).is_some())
                {
                    return false;
                }
                let mut at = start;
                let nodes = header.tokens.chunks_exact(BLOCK).map(|block| {
                    at = self.trie.grow_from(at, block);
                    self.trie.set_payload(at, Some(id));
                    at
                });
                Kind::Rows { nodes: nodes.collect() }
            }
            Body::Tail { is_mark, .. } => {
                let at = self.trie.insert(header.root, &tokens, id);
                self.now += 1;
                self.by_age.insert(self.now, id);
                Kind::Tail { at, is_mark: *is_mark, used: self.now }
            }
        };
        if let Some(parent) = header.parent {
            self.file_mut(parent).children.push(id);
        }
        let (bytes, first_segment) = (header.file_bytes(), header.first_segment);
        self.bytes += bytes;
        let file = File { parent: header.parent, first_segment, bytes, children: Vec::new(), kind };
        self.files.insert(id, file);
        true
    }

    /// The node at the end of the segments that a file stands on.
    fn start_of(&mut self, header: &Header) -> Option<NodeId> {
        let Some(parent) = header.parent else { return Some(self.trie.grow(header.root, &[])) };
        let file = self.files.get(&parent)?;
        let Kind::Rows { nodes } = &file.kind else { return None };
        let at = nodes.get(header.first_segment.checked_sub(file.first_segment + 1)?)?;
        (self.trie.root(*at) == header.root).then_some(*at)
    }

    /// Forgets a file, all that stands on it, and the rows that nothing stands on then; says what it forgot.
    pub(crate) fn remove(&mut self, id: FileId) -> Vec<FileId> {
        let mut gone = Vec::new();
        if self.files.contains_key(&id) {
            self.remove_with_children(id, &mut gone);
        }
        gone
    }

    fn remove_with_children(&mut self, id: FileId, gone: &mut Vec<FileId>) {
        while let Some(&child) = self.files.get(&id).and_then(|file| file.children.last()) {
            self.remove_with_children(child, gone);
        }
        // Its last child may have taken it along.
        if self.files.contains_key(&id) {
            self.remove_leaf(id, None, gone);
        }
    }

    /// Forgets the rows of a text that nothing stands on.
    pub(crate) fn remove_unused_rows(&mut self) -> Vec<FileId> {
        let is_unused = |file: &File| file.children.is_empty() && matches!(file.kind, Kind::Rows { .. });
        let unused: Vec<FileId> =
            self.files.iter().filter(|(_, file)| is_unused(file)).map(|(&id, _)| id).collect();
        unused.into_iter().flat_map(|id| self.remove(id)).collect()
    }

    /// Forgets a file that nothing stands on, then the rows that stood there for it alone; `kept` is not among them.
    fn remove_leaf(&mut self, id: FileId, kept: Option<FileId>, gone: &mut Vec<FileId>) {
        let mut next = Some(id);
        while let Some(id) = next {
            let file = self.files.remove(&id).expect("what is removed is there");
            assert!(file.children.is_empty(), "a file goes after those that stand on it");
            self.bytes -= file.bytes;
            gone.push(id);
            match file.kind {
                Kind::Tail { at, used, .. } => {
                    self.by_age.remove(&used);
                    self.trie.remove(at, id);
                }
                Kind::Rows { nodes } => {
                    for at in nodes.into_iter().rev() {
                        self.trie.set_payload(at, None);
                    }
                }
            }
            next = file.parent.filter(|&parent| {
                let parent_file = self.file_mut(parent);
                parent_file.children.retain(|&child| child != id);
                parent_file.children.is_empty() && kept != Some(parent)
            });
        }
    }

    fn touch_marks(&mut self, root: Root, tokens: &[TokenId]) {
        for id in self.trie.passed(root, tokens) {
            if matches!(self.files[&id].kind, Kind::Tail { is_mark: true, .. }) {
                self.touch(id);
            }
        }
    }

    fn touch(&mut self, id: FileId) {
        self.now += 1;
        let now = self.now;
        if let Kind::Tail { used, .. } = &mut self.file_mut(id).kind {
            let before = std::mem::replace(used, now);
            self.by_age.remove(&before);
            self.by_age.insert(now, id);
        }
    }

    fn file_mut(&mut self, id: FileId) -> &mut File {
        self.files.get_mut(&id).expect("what others stand on is there")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const HERE: Root = Root { model: 1, scope: 2 };
    const SEGMENT_BYTES: usize = 1000;
    const TAIL_BYTES: usize = 300;

    /// A folder without files, and a store as the cache's threads do it.
    struct Shelf {
        index: Index,
        files: BTreeSet<FileId>,
    }

    impl Shelf {
        fn new(bytes_max: u64) -> Self {
            Self { index: Index::new(bytes_max), files: BTreeSet::new() }
        }

        fn forget(&mut self, gone: Vec<FileId>) {
            gone.iter().for_each(|id| assert!(self.files.remove(id), "it was there"));
        }

        /// Whether it was stored, now or before.
        fn store(&mut self, root: Root, tokens: &[TokenId]) -> bool {
            if self.index.refresh(root, tokens) {
                return true;
            }
            let known = self.index.known(root, tokens);
            let n_segments = tokens.len() / BLOCK;
            let rows = (known.n_segments < n_segments).then(|| Header {
                root,
                parent: known.parent,
                first_segment: known.n_segments,
                tokens: tokens[known.n_segments * BLOCK..n_segments * BLOCK].to_vec(),
                body: Body::Rows {
                    segment_bytes: SEGMENT_BYTES,
                    checksums: vec![0; n_segments - known.n_segments],
                },
            });
            let rows =
                rows.map(|rows| (name(root, rows.first_segment, false, &tokens[..n_segments * BLOCK]), rows));
            let tail = Header {
                root,
                parent: rows.as_ref().map(|(id, _)| *id).or(known.parent),
                first_segment: n_segments,
                tokens: tokens[n_segments * BLOCK..].to_vec(),
                body: Body::Tail { bytes: TAIL_BYTES, checksum: 0, is_mark: tokens.len().is_multiple_of(7) },
            };
            let bytes = rows.as_ref().map_or(0, |(_, rows)| rows.file_bytes()) + tail.file_bytes();
            let Some(gone) = self.index.make_room(known.parent, bytes) else { return false };
            self.forget(gone);
            let tail = (name(root, 0, true, tokens), tail);
            for (id, header) in rows.into_iter().chain([tail]) {
                assert!(self.index.insert(id, &header), "room was made for it");
                assert!(self.files.insert(id));
            }
            true
        }

        fn check(&self) {
            let index = &self.index;
            assert_eq!(index.files.keys().copied().collect::<BTreeSet<_>>(), self.files);
            assert_eq!(index.bytes, index.files.values().map(|file| file.bytes).sum::<u64>());
            assert!(index.bytes <= index.bytes_max);
            for (id, file) in &index.files {
                let is_tail = matches!(file.kind, Kind::Tail { .. });
                assert_eq!(is_tail, file.children.is_empty(), "rows are there for what stands on them");
                assert!(file.parent.is_none_or(|parent| index.files[&parent].children.contains(id)));
            }
        }
    }

    fn text() -> impl Strategy<Value = Vec<TokenId>> {
        prop::collection::vec((0u32..2, 100usize..200), 1..6).prop_map(|runs| {
            runs.into_iter().flat_map(|(token, n)| std::iter::repeat_n(TokenId(token), n)).collect()
        })
    }

    proptest! {
        #[test]
        fn what_is_found_is_whole_and_the_longest_and_the_bound_is_kept(
            steps in prop::collection::vec((0u8..8, text(), 0u64..2), 1..40),
            bytes_max in 0u64..20_000,
        ) {
            let mut shelf = Shelf::new(bytes_max);
            let mut stored: BTreeSet<(u64, Vec<TokenId>)> = BTreeSet::new();
            for (what, tokens, scope) in steps {
                let root = Root { scope, ..HERE };
                match what {
                    0 => if let Some(&id) = shelf.files.first() {
                        let gone = shelf.index.remove(id);
                        prop_assert!(gone.contains(&id));
                        shelf.forget(gone);
                    },
                    1 | 2 => {
                        let reach = shelf.index.reach(root, &tokens);
                        let is_there = |tokens: &[TokenId]| shelf.files.contains(&name(root, 0, true, tokens));
                        let want = stored.iter().filter(|(s, kept)| {
                            *s == scope && kept.len() < tokens.len() && tokens.starts_with(kept) && is_there(kept)
                        });
                        prop_assert_eq!(reach, want.map(|(_, kept)| kept.len()).max().unwrap_or(0));
                        let found = shelf.index.find(root, &tokens);
                        prop_assert_eq!(found.as_ref().map_or(0, |found| found.n_tokens), reach);
                        if let Some(found) = found {
                            prop_assert_eq!(found.tail, name(root, 0, true, &tokens[..reach]));
                            let n: usize = found.rows.iter().map(|(_, range)| range.len()).sum();
                            prop_assert_eq!(n, reach / BLOCK);
                            prop_assert!(found.rows.iter().all(|(id, _)| shelf.files.contains(id)));
                        }
                    }
                    _ => if shelf.store(root, &tokens) {
                        prop_assert_eq!(shelf.index.reach(root, &[&tokens[..], &[TokenId(9)]].concat()), tokens.len());
                        stored.insert((scope, tokens));
                    },
                }
                shelf.check();
            }
        }
    }

    #[test]
    fn the_least_recently_used_tail_goes_first_and_rows_stay_while_they_are_stood_on() {
        let tokens: Vec<TokenId> = (0..1000).map(TokenId).collect();
        let mut shelf = Shelf::new(8_500);
        assert!(shelf.store(HERE, &tokens[..200]));
        assert!(shelf.store(HERE, &tokens[..300]));
        assert!(shelf.store(HERE, &tokens[..301]));
        assert_eq!(shelf.index.reach(HERE, &tokens[..201]), 200);
        assert!(shelf.index.find(HERE, &tokens[..201]).is_some());
        let other: Vec<TokenId> = (5000..5300).map(TokenId).collect();
        assert!(shelf.store(HERE, &other));
        assert_eq!(shelf.index.reach(HERE, &tokens[..1000]), 301);
        let third: Vec<TokenId> = (7000..7200).map(TokenId).collect();
        assert!(shelf.store(HERE, &third), "300 goes first, then 301");
        assert_eq!(shelf.index.reach(HERE, &tokens[..1000]), 200);
        shelf.check();
    }

    #[test]
    fn a_state_larger_than_the_bound_removes_nothing() {
        let tokens: Vec<TokenId> = (0..1000).map(TokenId).collect();
        let mut shelf = Shelf::new(3_000);
        assert!(shelf.store(HERE, &tokens[..130]));
        assert!(!shelf.store(HERE, &tokens[..500]), "its rows stand on the first state's");
        assert!(!shelf.store(HERE, &tokens[500..900]));
        assert_eq!(shelf.index.reach(HERE, &tokens), 130);
        shelf.check();
    }
}
