//! What begins like a text, token by token: a tree of blocks, in which only equal tokens share a way.
//!
//! Hashes lead from a block to the next, but the tokens themselves are compared: two texts whose hashes collide stay
//! two texts.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use cuvier_types::TokenId;

use super::plan::BLOCK;

/// Texts under different roots never meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Root {
    /// The identity of the states: model, cache format, arithmetic.
    pub(crate) model: u64,
    /// Who shares with whom.
    pub(crate) scope: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct NodeId(u64);

/// A key with the text it stands for, found by the beginning of another text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Match<K> {
    pub(crate) key: K,
    /// Tokens of its text.
    pub(crate) len: usize,
    /// Of these, tokens that the other text begins with too.
    pub(crate) n_common: usize,
}

/// Keys `K` by their texts, and at most one `P` per block.
#[derive(Debug)]
pub(crate) struct Trie<K, P> {
    /// Tokens that a text may have at its end beyond what it has in common with another.
    reach: usize,
    roots: HashMap<Root, NodeId>,
    nodes: HashMap<NodeId, Node<K, P>>,
    next: u64,
    /// Tokens in blocks and rests.
    n_tokens: usize,
}

#[derive(Debug)]
struct Node<K, P> {
    root: Root,
    parent: Option<NodeId>,
    /// Its own block, at the end of `depth` blocks; a root has none.
    block: Arc<[TokenId]>,
    depth: usize,
    children: HashMap<Arc<[TokenId]>, NodeId>,
    /// Texts that end so little behind this block that no state of theirs can be taken back before it.
    keys: Vec<(K, Vec<TokenId>)>,
    payload: Option<P>,
}

impl<K: Copy + Eq + Hash, P: Copy> Trie<K, P> {
    /// Texts are found by others that part from them at most `reach` tokens before their end.
    pub(crate) fn new(reach: usize) -> Self {
        Self { reach, roots: HashMap::new(), nodes: HashMap::new(), next: 0, n_tokens: 0 }
    }

    /// The way of a text as far as it is known: its root, then a node for each block.
    pub(crate) fn path(&self, root: Root, tokens: &[TokenId]) -> Vec<NodeId> {
        let Some(&start) = self.roots.get(&root) else { return Vec::new() };
        let mut path = vec![start];
        let mut at = start;
        for block in tokens.chunks_exact(BLOCK) {
            let Some(&next) = self.nodes[&at].children.get(block) else { break };
            path.push(next);
            at = next;
        }
        path
    }

    /// The nodes behind `at` on the way of `blocks`, as far as there are any.
    pub(crate) fn below(&self, at: NodeId, blocks: &[TokenId]) -> Vec<NodeId> {
        let mut at = at;
        let next = |block| {
            at = *self.nodes[&at].children.get(block)?;
            Some(at)
        };
        blocks.chunks_exact(BLOCK).map_while(next).collect()
    }

    /// The tokens on the way to a node.
    pub(crate) fn text(&self, at: NodeId) -> Vec<TokenId> {
        let ways = std::iter::successors(Some(at), |at| self.nodes[at].parent);
        let mut blocks: Vec<&[TokenId]> = ways.map(|at| &*self.nodes[&at].block).collect();
        blocks.reverse();
        blocks.concat()
    }

    /// The root above a node.
    pub(crate) fn root(&self, at: NodeId) -> Root {
        self.nodes[&at].root
    }

    /// The node at the end of whole blocks, made where it is not there. One that stays without key, payload and
    /// children has to go by [`Trie::prune`].
    pub(crate) fn grow(&mut self, root: Root, blocks: &[TokenId]) -> NodeId {
        assert!(blocks.len().is_multiple_of(BLOCK), "{} tokens are not whole blocks", blocks.len());
        let mut path = self.path(root, blocks);
        if path.is_empty() {
            let start = self.add(Node::new(root, None, Arc::from([]), 0));
            self.roots.insert(root, start);
            path.push(start);
        }
        let known = path.len() - 1;
        let at = *path.last().expect("a root is there by now");
        blocks.chunks_exact(BLOCK).skip(known).fold(at, |at, block| self.grow_from(at, block))
    }

    /// The node one block behind another.
    pub(crate) fn grow_from(&mut self, at: NodeId, block: &[TokenId]) -> NodeId {
        let parent = &self.nodes[&at];
        if let Some(&next) = parent.children.get(block) {
            return next;
        }
        let block: Arc<[TokenId]> = Arc::from(block);
        let node = Node::new(parent.root, Some(at), block.clone(), parent.depth + 1);
        let next = self.add(node);
        self.node_mut(at).children.insert(block, next);
        next
    }

    fn add(&mut self, node: Node<K, P>) -> NodeId {
        let id = NodeId(self.next);
        self.next += 1;
        self.n_tokens += node.block.len();
        self.nodes.insert(id, node);
        id
    }

    /// Adds a key for a text; the node has to be given back to [`Trie::remove`].
    pub(crate) fn insert(&mut self, root: Root, tokens: &[TokenId], key: K) -> NodeId {
        let n_blocks = tokens.len().saturating_sub(self.reach) / BLOCK;
        let (blocks, rest) = tokens.split_at(n_blocks * BLOCK);
        let at = self.grow(root, blocks);
        self.n_tokens += rest.len();
        self.node_mut(at).keys.push((key, rest.to_vec()));
        at
    }

    pub(crate) fn remove(&mut self, at: NodeId, key: K) {
        let keys = &mut self.node_mut(at).keys;
        let index = keys.iter().position(|&(other, _)| other == key).expect("the key was inserted here");
        let (_, rest) = keys.swap_remove(index);
        self.n_tokens -= rest.len();
        self.prune(at);
    }

    pub(crate) fn payload(&self, at: NodeId) -> Option<P> {
        self.nodes[&at].payload
    }

    pub(crate) fn set_payload(&mut self, at: NodeId, payload: Option<P>) {
        self.node_mut(at).payload = payload;
        if payload.is_none() {
            self.prune(at);
        }
    }

    /// Lets go of a node that holds nothing, and of those above it that held nothing else.
    pub(crate) fn prune(&mut self, at: NodeId) {
        let mut next = Some(at);
        while let Some(at) = next {
            let node = &self.nodes[&at];
            if !(node.keys.is_empty() && node.payload.is_none() && node.children.is_empty()) {
                return;
            }
            let node = self.nodes.remove(&at).expect("it was just looked at");
            self.n_tokens -= node.block.len();
            match node.parent {
                Some(parent) => _ = self.node_mut(parent).children.remove(&node.block),
                None => _ = self.roots.remove(&node.root),
            }
            next = node.parent;
        }
    }

    /// Keys whose texts agree with the beginning of `prompt`, of which at most `n_max` tokens may be used, but for what
    /// is in reach of their own end. Those that agree longest come first, the shorter text first among equals.
    pub(crate) fn nearest(&self, root: Root, prompt: &[TokenId], n_max: usize) -> Vec<Match<K>> {
        let mut found: Vec<Match<K>> = Vec::new();
        for at in self.path(root, prompt) {
            let node = &self.nodes[&at];
            let behind = node.depth * BLOCK;
            for (key, rest) in &node.keys {
                let len = behind + rest.len();
                let n_common = (behind + n_common(rest, &prompt[behind..])).min(n_max);
                if n_common > 0 && len - n_common <= self.reach {
                    found.push(Match { key: *key, len, n_common });
                }
            }
        }
        found.sort_by_key(|found| (std::cmp::Reverse(found.n_common), found.len));
        found
    }

    /// How many tokens of the beginning of `tokens` some text here begins with too.
    pub(crate) fn known(&self, root: Root, tokens: &[TokenId]) -> usize {
        let path = self.path(root, tokens);
        let Some(at) = path.last() else { return 0 };
        let node = &self.nodes[at];
        let behind = node.depth * BLOCK;
        let blocks = node.children.keys().map(|block| n_common(block, &tokens[behind..]));
        // A rest may be longer than a block, and so hang above.
        let above = path.iter().rev().take(2).map(|at| &self.nodes[at]);
        let rests = above.flat_map(|node| {
            let behind = node.depth * BLOCK;
            node.keys.iter().map(move |(_, rest)| behind + n_common(rest, &tokens[behind..]))
        });
        blocks.map(|n| behind + n).chain(rests).max().unwrap_or(behind).max(behind)
    }

    /// Keys whose whole texts `tokens` begins with.
    pub(crate) fn passed(&self, root: Root, tokens: &[TokenId]) -> Vec<K> {
        let nodes = self.path(root, tokens).into_iter().map(|at| &self.nodes[&at]);
        let keys = nodes.flat_map(|node| node.keys.iter().map(|key| (node.depth * BLOCK, key)));
        keys.filter(|(behind, (_, rest))| tokens[*behind..].starts_with(rest))
            .map(|(_, (key, _))| *key)
            .collect()
    }

    /// Bytes of memory, counted roughly and not too low.
    pub(crate) fn bytes(&self) -> usize {
        self.n_tokens * size_of::<TokenId>() + self.nodes.len() * (size_of::<Node<K, P>>() + 128)
    }

    fn node_mut(&mut self, at: NodeId) -> &mut Node<K, P> {
        self.nodes.get_mut(&at).expect("a node is there until it is pruned")
    }
}

impl<K, P> Node<K, P> {
    fn new(root: Root, parent: Option<NodeId>, block: Arc<[TokenId]>, depth: usize) -> Self {
        Self { root, parent, block, depth, children: HashMap::new(), keys: Vec::new(), payload: None }
    }
}

/// Tokens with which both begin.
pub(crate) fn n_common(a: &[TokenId], b: &[TokenId]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HERE: Root = Root { model: 1, scope: 2 };

    /// Few tokens in long runs, so that texts share much and part at any place.
    fn text() -> impl Strategy<Value = Vec<TokenId>> {
        prop::collection::vec((0u32..2, 1usize..150), 1..6).prop_map(|runs| {
            runs.into_iter().flat_map(|(token, n)| std::iter::repeat_n(TokenId(token), n)).collect()
        })
    }

    /// By looking at every text.
    fn naive(kept: &[(u32, Vec<TokenId>)], prompt: &[TokenId], n_max: usize, reach: usize) -> usize {
        let usable = |tokens: &Vec<TokenId>| {
            let n = n_common(tokens, prompt).min(n_max);
            if tokens.len() - n <= reach { n } else { 0 }
        };
        kept.iter().map(|(_, tokens)| usable(tokens)).max().unwrap_or(0)
    }

    proptest! {
        #[test]
        fn the_nearest_is_what_a_look_at_every_text_finds(
            texts in prop::collection::vec(text(), 0..20),
            removed in prop::collection::vec(any::<prop::sample::Index>(), 0..10),
            prompt in text(),
            reach in 0usize..33,
        ) {
            let mut trie: Trie<u32, ()> = Trie::new(reach);
            let mut kept: Vec<(u32, Vec<TokenId>)> = (0..).zip(texts).collect();
            let mut nodes: HashMap<u32, NodeId> =
                kept.iter().map(|(key, tokens)| (*key, trie.insert(HERE, tokens, *key))).collect();
            for index in removed {
                if !kept.is_empty() {
                    let (key, _) = kept.remove(index.index(kept.len()));
                    trie.remove(nodes.remove(&key).expect("it was inserted"), key);
                }
            }
            let n_max = prompt.len() - 1;
            let found = trie.nearest(HERE, &prompt, n_max);
            prop_assert_eq!(found.first().map_or(0, |found| found.n_common), naive(&kept, &prompt, n_max, reach));
            for found in found {
                let (_, tokens) = kept.iter().find(|(key, _)| *key == found.key).expect("only what is kept");
                prop_assert_eq!(found.len, tokens.len());
                prop_assert_eq!(found.n_common, n_common(tokens, &prompt).min(n_max));
            }
            let known = kept.iter().map(|(_, tokens)| n_common(tokens, &prompt)).max().unwrap_or(0);
            prop_assert_eq!(trie.known(HERE, &prompt), known);
            let mut passed = trie.passed(HERE, &prompt);
            passed.sort_unstable();
            let want = kept.iter().filter(|(_, tokens)| prompt.starts_with(tokens));
            prop_assert_eq!(passed, want.map(|(key, _)| *key).collect::<Vec<_>>());
            for other in [Root { model: 2, ..HERE }, Root { scope: 1, ..HERE }] {
                prop_assert!(trie.nearest(other, &prompt, n_max).is_empty());
            }
            kept.iter().for_each(|(key, _)| trie.remove(nodes[key], *key));
            prop_assert_eq!((trie.nodes.len(), trie.roots.len(), trie.n_tokens), (0, 0, 0));
        }
    }
}
