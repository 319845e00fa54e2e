use cuvier_tensor::{Matrix, PagedRows};

use super::*;
use crate::testing::{assert_within, everywhere, scalar, uniform};
use crate::{EntryCodec, KvFormat, encode_entries};

/// What the tokens of a case look at beside the window.
#[derive(Clone, Copy)]
enum Past {
    Nothing,
    All(usize),
    Selected,
}

/// One sequence, all of it.
struct Case {
    q: Matrix,
    window: PagedRows<u8>,
    entries: PagedRows<u8>,
    selection: Selection,
    codec: EntryCodec,
    attn_sink: Vec<f32>,
    sliding_window: usize,
    past: Past,
}

impl Case {
    fn new(codec: EntryCodec, heads: usize, tokens: usize, past: Past) -> Self {
        let dim = codec.head_dim;
        let mut selection = Selection::default();
        for token in 0..tokens as u32 {
            let visible = (token + 1) / 4;
            selection.push(&(0..visible).filter(|j| (j * 7 + token) % 3 != 0).collect::<Vec<_>>());
        }
        Self {
            q: Matrix::from_vec(
                uniform(tokens * heads * dim, 1).iter().map(|x| x * 4.0).collect(),
                heads * dim,
            ),
            window: stored(codec, tokens, 2),
            entries: stored(codec, tokens / 4, 3),
            selection,
            codec,
            attn_sink: uniform(heads, 4),
            sliding_window: 128,
            past,
        }
    }

    fn config(&self) -> AttentionConfig<'_> {
        AttentionConfig {
            codec: self.codec,
            attn_sink: &self.attn_sink,
            sliding_window: self.sliding_window,
            scale: 1.0 / (self.codec.head_dim as f32).sqrt(),
        }
    }

    /// The tokens `positions` alone, with nothing stored but what they may look at.
    fn run(&self, c: &Compute, positions: Range<usize>) -> Vec<f32> {
        let mut window = self.window.clone();
        window.truncate(positions.end);
        window.release_before((positions.start + 1).saturating_sub(self.sliding_window));
        let mut entries = self.entries.clone();
        if let Past::All(ratio) = self.past {
            entries.truncate(positions.end / ratio);
        }
        let mut selection = Selection::default();
        for token in positions.clone() {
            selection.push(self.selection.of(token));
        }
        let cols = self.q.cols();
        let q = Matrix::from_vec(self.q.data()[positions.start * cols..positions.end * cols].to_vec(), cols);
        let segment = AttentionSegment {
            tokens: 0..positions.len(),
            first_position: positions.start,
            window: &window,
            entries: (!matches!(self.past, Past::Nothing)).then_some(&entries),
        };
        let chosen = match self.past {
            Past::Nothing => Entries::None,
            Past::All(ratio) => Entries::All { ratio },
            Past::Selected => Entries::Selected(&selection),
        };
        let mut out = Matrix::from_vec(vec![f32::NAN; positions.len() * cols], cols);
        attention(c, q.view(), &[segment], chosen, &self.config(), out.view_mut());
        out.into_vec()
    }

    /// The decoded keys of the token at `position`, in order.
    fn keys(&self, position: usize) -> Vec<Vec<f32>> {
        let decode = |row: &[u8]| {
            let mut out = vec![0.0; self.codec.head_dim];
            self.codec.decode_row(row, &mut out);
            out
        };
        let window = (position + 1).saturating_sub(self.sliding_window)..=position;
        let mut keys: Vec<_> = window.map(|p| decode(self.window.row(p))).collect();
        match self.past {
            Past::Nothing => {}
            Past::All(ratio) => keys.extend((0..(position + 1) / ratio).map(|j| decode(self.entries.row(j)))),
            Past::Selected => {
                keys.extend(
                    self.selection.of(position).iter().map(|&j| decode(self.entries.row(j as usize))),
                );
            }
        }
        keys
    }

    fn check(&self, got: &[f32], positions: Range<usize>) {
        let dim = self.codec.head_dim;
        let scale = self.config().scale;
        let mut exact = Vec::new();
        for position in positions {
            let keys = self.keys(position);
            for (q, &sink) in self.q.row(position).chunks_exact(dim).zip(&self.attn_sink) {
                let head = reference::attend(q, &keys, sink, scale);
                exact.extend(head.out.into_iter().zip(head.bound));
            }
        }
        assert_within(got, exact, "attention");
    }
}

/// `rows` stored keys.
fn stored(codec: EntryCodec, rows: usize, seed: u64) -> PagedRows<u8> {
    let x = Matrix::from_vec(uniform(rows * codec.head_dim, seed), codec.head_dim);
    let mut bytes = Matrix::zeros(rows, codec.row_bytes());
    encode_entries(&scalar(), &codec, x.view(), bytes.view_mut());
    let mut out = PagedRows::new(codec.row_bytes(), 0);
    out.extend(bytes.data());
    out
}

fn codec(format: KvFormat, head_dim: usize, rope_dim: usize) -> EntryCodec {
    EntryCodec { format, head_dim, rope_dim }
}

#[test]
fn every_head_of_every_token_stays_within_the_bound() {
    for (codec, heads) in [
        (codec(KvFormat::Fp8, 24, 8), 1),
        (codec(KvFormat::F32, 31, 7), 3),
        (codec(KvFormat::Fp8, 40, 8), 5),
        (codec(KvFormat::Fp8, 96, 16), 17),
    ] {
        for past in [Past::Nothing, Past::All(4), Past::All(128), Past::Selected] {
            let case = Case::new(codec, heads, 260, past);
            for positions in [0..6, 126..131, 254..259] {
                case.check(&everywhere(|c| case.run(c, positions.clone())), positions);
            }
        }
    }
}

#[test]
fn the_released_shape_stays_within_the_bound() {
    let case = Case::new(codec(KvFormat::Fp8, 512, 64), 64, 258, Past::Selected);
    case.check(&everywhere(|c| case.run(c, 257..258)), 257..258);
}

#[test]
fn long_lists_stay_within_the_bound() {
    let case = Case::new(codec(KvFormat::Fp8, 24, 8), 3, 9000, Past::All(4));
    case.check(&everywhere(|c| case.run(c, 8997..9000)), 8997..9000);
}

#[test]
fn a_token_is_the_same_in_any_chunk() {
    for past in [Past::Nothing, Past::All(4), Past::Selected] {
        let case = Case::new(codec(KvFormat::Fp8, 40, 8), 5, 140, past);
        let whole = everywhere(|c| case.run(c, 0..140));
        for cuts in [vec![0, 3, 4, 131, 133, 140], vec![0, 1, 127, 128, 129, 140], (0..=140).collect()] {
            let pieces: Vec<f32> =
                cuts.windows(2).flat_map(|cut| case.run(&scalar(), cut[0]..cut[1])).collect();
            assert_eq!(pieces, whole, "{cuts:?}");
        }
    }
}

#[test]
fn a_token_is_the_same_beside_other_sequences() {
    let case = Case::new(codec(KvFormat::Fp8, 24, 8), 3, 20, Past::All(4));
    let other = Case::new(codec(KvFormat::Fp8, 24, 8), 3, 9, Past::All(4));
    let segments =
        [(&other, 1..3, 4), (&case, 3..8, 12), (&other, 8..9, 8)].map(|(case, tokens, first_position)| {
            AttentionSegment { tokens, first_position, window: &case.window, entries: Some(&case.entries) }
        });
    let mut q = uniform(10 * 72, 9);
    q[3 * 72..8 * 72].copy_from_slice(&case.q.data()[12 * 72..17 * 72]);
    let q = Matrix::from_vec(q, 72);
    let batch = everywhere(|c| {
        let mut out = Matrix::from_vec(vec![-7.0; 10 * 72], 72);
        attention(c, q.view(), &segments, Entries::All { ratio: 4 }, &case.config(), out.view_mut());
        out.into_vec()
    });
    assert_eq!(batch[3 * 72..8 * 72], case.run(&scalar(), 12..17));
    assert!(batch[..72].iter().chain(&batch[9 * 72..]).all(|&x| x == -7.0), "rows outside segments");
}

#[test]
fn an_entry_is_seen_from_its_last_token_on_and_not_before() {
    for ratio in [4, 128] {
        let mut case = Case::new(codec(KvFormat::F32, 16, 8), 1, 520, Past::All(ratio));
        let before: Vec<f32> = case.run(&scalar(), 0..520);
        // Change entry 2: only tokens from the last of its block on may notice.
        let mut entries = PagedRows::new(64, 0);
        entries.extend(&case.entries.copy_from(0)[..128]);
        entries.extend(&[3.0f32; 16].map(f32::to_le_bytes).concat());
        entries.extend(&case.entries.copy_from(3));
        case.entries = entries;
        let after: Vec<f32> = case.run(&scalar(), 0..520);
        for token in 0..520 {
            let same = before[16 * token..][..16] == after[16 * token..][..16];
            assert_eq!(same, token < 3 * ratio - 1, "token {token} at ratio {ratio}");
        }
    }
}

#[test]
fn a_window_key_is_seen_by_as_many_tokens_as_the_window_is_long() {
    for sliding_window in [1, 2, 128] {
        let mut case = Case::new(codec(KvFormat::F32, 16, 8), 1, 300, Past::Nothing);
        case.sliding_window = sliding_window;
        let before: Vec<f32> = case.run(&scalar(), 0..300);
        let rows = case.window.copy_from(0);
        case.window = PagedRows::new(64, 0);
        case.window.extend(&rows[..150 * 64]);
        case.window.extend(&[3.0f32; 16].map(f32::to_le_bytes).concat());
        case.window.extend(&rows[151 * 64..]);
        let after: Vec<f32> = case.run(&scalar(), 0..300);
        for token in 0..300 {
            let same = before[16 * token..][..16] == after[16 * token..][..16];
            assert_eq!(!same, (150..150 + sliding_window).contains(&token), "token {token}");
        }
    }
}

#[test]
fn the_sink_takes_its_share_and_adds_no_value() {
    let mut case = Case::new(codec(KvFormat::F32, 16, 8), 1, 1, Past::Nothing);
    let key = case.keys(0).remove(0);
    // The only key scores 0, the sink log 3: the key weighs 1 / (1 + 3).
    case.q = Matrix::zeros(1, 16);
    case.attn_sink = vec![3f32.ln()];
    for (got, key) in everywhere(|c| case.run(c, 0..1)).iter().zip(&key) {
        assert!((got - key / 4.0).abs() <= 4.0 * f32::EPSILON * key.abs());
    }
    // A sink beyond all scores leaves nothing and one below leaves everything, without overflow.
    case.attn_sink = vec![1e4];
    assert!(everywhere(|c| case.run(c, 0..1)).iter().all(|x| x.abs() < 1e-30));
    case.attn_sink = vec![-1e4];
    assert_eq!(everywhere(|c| case.run(c, 0..1)), key);
}

#[test]
fn huge_scores_do_not_overflow() {
    let mut case = Case::new(codec(KvFormat::F32, 16, 8), 1, 40, Past::Nothing);
    case.q = Matrix::from_vec(case.q.data().iter().map(|x| x * 1e6).collect(), 16);
    let got = case.run(&scalar(), 39..40);
    let keys = case.keys(39);
    assert!(keys.contains(&got), "one key outweighs all others");
}

#[test]
fn scores_far_below_zero_still_share_the_whole() {
    // Had anything else a score of 0, the only key's weight would vanish beside it.
    let mut case = Case::new(codec(KvFormat::F32, 16, 8), 1, 1, Past::Nothing);
    let key = case.keys(0).remove(0);
    case.q = Matrix::from_vec(key.iter().map(|x| -1e4 * x).collect(), 16);
    case.attn_sink = vec![-1e6];
    assert_eq!(everywhere(|c| case.run(c, 0..1)), key);
}

#[test]
fn numbers_that_are_none_do_not_panic() {
    for bad in [f32::NAN, f32::INFINITY] {
        let mut case = Case::new(codec(KvFormat::Fp8, 24, 8), 2, 30, Past::Selected);
        case.q.row_mut(3)[5] = bad;
        case.attn_sink[1] = bad;
        let out = case.run(&scalar(), 0..30);
        assert!(
            out[4 * 48..][..24].iter().all(|x| x.is_finite()),
            "the first head of the next token is well"
        );
    }
}
