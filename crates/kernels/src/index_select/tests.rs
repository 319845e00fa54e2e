use cuvier_tensor::{Matrix, PagedRows};

use super::*;
use crate::testing::{U, compute, everywhere, scalar, uniform};
use crate::{Isa, KvFormat, encode_index_keys, quantise_index_queries};

/// One sequence: `tokens` tokens from position `first_position` on, and all its keys.
struct Case {
    q: Matrix,
    w: Matrix,
    codec: IndexKeyCodec,
    keys: PagedRows<u8>,
    decoded: Vec<Vec<f32>>,
    first_position: usize,
    ratio: usize,
}

impl Case {
    /// Draws small whole numbers when `whole`, for which every score is exact, and ties abound.
    fn new(
        format: KvFormat,
        heads: usize,
        dim: usize,
        positions: Range<usize>,
        ratio: usize,
        whole: bool,
    ) -> Self {
        let draw = |len: usize, seed: u64, size: f32| -> Vec<f32> {
            uniform(len, seed).into_iter().map(|x| if whole { (x * size).round() } else { x }).collect()
        };
        let tokens = positions.len();
        let codec = IndexKeyCodec { format, dim };
        let count = positions.end / ratio;
        let raw = Matrix::from_vec(draw(count * dim, 3, 2.0), dim);
        let mut stored = Matrix::zeros(count, codec.row_bytes());
        encode_index_keys(&scalar(), &codec, raw.view(), stored.view_mut());
        let mut keys = PagedRows::new(codec.row_bytes(), 0);
        keys.extend(stored.data());
        let decode = |row: &[u8]| {
            let mut out = vec![0.0; dim];
            codec.decode_row(row, &mut out);
            out
        };
        Self {
            q: Matrix::from_vec(draw(tokens * heads * dim, 1, 2.0), dim),
            w: Matrix::from_vec(draw(tokens * heads, 2, 3.0), heads),
            codec,
            decoded: stored.view().iter().map(decode).collect(),
            keys,
            first_position: positions.start,
            ratio,
        }
    }

    fn select(&self, c: &Compute, k: usize) -> Selection {
        let tokens = 0..self.w.rows();
        let segment = IndexSegment { tokens, first_position: self.first_position, keys: &self.keys };
        index_select(c, self.q.view(), self.w.view(), &[segment], &self.codec, self.ratio, k)
    }

    /// The selection of every token, the same everywhere.
    fn lists(&self, k: usize) -> Vec<Vec<u32>> {
        let flat = everywhere(|c| {
            let selection = self.select(c, k);
            let lists = (0..selection.tokens()).map(|token| selection.of(token));
            lists.flat_map(|list| list.iter().map(|&j| j as f32).chain([-1.0])).collect()
        });
        let mut lists: Vec<Vec<u32>> =
            flat.split(|&x| x == -1.0).map(|list| list.iter().map(|&j| j as u32).collect()).collect();
        lists.pop();
        lists
    }

    fn visible(&self, token: usize) -> usize {
        (self.first_position + token + 1) / self.ratio
    }

    fn scores(&self, token: usize) -> Vec<f64> {
        let heads = self.w.cols();
        let q = &self.q.data()[token * heads * self.codec.dim..][..heads * self.codec.dim];
        reference::scores(q, self.w.row(token), &self.decoded[..self.visible(token)])
    }
}

#[test]
fn the_best_entries_are_selected_and_of_equal_ones_the_lower() {
    for format in [KvFormat::F32, KvFormat::Fp8] {
        for (heads, dim, positions) in
            [(1, 8, 0..40), (3, 40, 90..110), (5, 32, 250..262), (8, 16, 600..603), (64, 128, 1000..1002)]
        {
            let case = Case::new(format, heads, dim, positions, 2, true);
            for k in [1, 2, 7, 16, 55, 128, 1000] {
                for (token, list) in case.lists(k).into_iter().enumerate() {
                    assert_eq!(list, reference::select(&case.scores(token), k), "{heads} {dim} {k} {token}");
                }
            }
        }
    }
}

#[test]
fn drawn_scores_select_no_entry_that_is_worse_than_its_error() {
    let case = Case::new(KvFormat::F32, 9, 72, 700..704, 1, false);
    let k = 64;
    for (token, list) in case.lists(k).into_iter().enumerate() {
        let exact = case.scores(token);
        let q: Vec<&[f32]> = (0..9).map(|head| case.q.row(token * 9 + head)).collect();
        // A dot product rounds once per dimension, the sum over heads once per head.
        let error = |j: u32| -> f64 {
            let magnitude = |(q, w): (&&[f32], &f32)| {
                let products = q.iter().zip(&case.decoded[j as usize]).map(|(a, b)| f64::from((a * b).abs()));
                f64::from(w.abs()) * products.sum::<f64>()
            };
            (72.0 + 9.0 + 2.0) * U * q.iter().zip(case.w.row(token)).map(magnitude).sum::<f64>()
        };
        let worst = list.iter().map(|&j| exact[j as usize] + error(j)).fold(f64::MAX, f64::min);
        assert_eq!(list.len(), k);
        for j in (0..exact.len() as u32).filter(|j| !list.contains(j)) {
            assert!(exact[j as usize] - error(j) <= worst, "token {token}: entry {j} was left out");
        }
    }
}

#[test]
fn all_visible_entries_are_kept_when_there_are_no_more_than_k() {
    let case = Case::new(KvFormat::Fp8, 3, 32, 0..130, 4, false);
    for (token, list) in case.lists(20).into_iter().enumerate() {
        assert_eq!(list.len(), 20.min((token + 1) / 4));
        if case.visible(token) <= 20 {
            assert!(list.iter().copied().eq(0..case.visible(token) as u32));
        }
    }
    assert!(case.lists(0).iter().all(Vec::is_empty));
}

#[test]
fn an_entry_is_visible_from_its_last_token_on_and_not_before() {
    // Every later entry is better, so each token selects the last one that it sees.
    let codec = IndexKeyCodec { format: KvFormat::F32, dim: 4 };
    let mut keys = PagedRows::new(codec.row_bytes(), 0);
    for entry in 0..100 {
        keys.extend(&[entry as f32 + 1.0, 0.0, 0.0, 0.0].map(f32::to_le_bytes).concat());
    }
    let (q, w) = (Matrix::from_vec(vec![1.0; 400 * 4], 4), Matrix::from_vec(vec![1.0; 400], 1));
    let segment = IndexSegment { tokens: 0..400, first_position: 0, keys: &keys };
    let selection = index_select(&scalar(), q.view(), w.view(), &[segment], &codec, 4, 1);
    for token in 0..400usize {
        let last = ((token + 1) / 4).checked_sub(1).map(|last| last as u32);
        assert_eq!(selection.of(token), last.as_slice(), "token {token}");
    }
}

#[test]
fn planted_maxima_are_found_wherever_they_lie() {
    let codec = IndexKeyCodec { format: KvFormat::Fp8, dim: 32 };
    let count = 20_000;
    let planted = [0, 1, 511, 512, 2047, 2048, 2049, 4095, 9_999, 13_131, 19_998, 19_999];
    let mut x = Matrix::from_vec(uniform(count * 32, 8), 32);
    for entry in planted {
        x.row_mut(entry).fill(3.0);
    }
    let mut stored = Matrix::zeros(count, codec.row_bytes());
    encode_index_keys(&scalar(), &codec, x.view(), stored.view_mut());
    let mut keys = PagedRows::new(codec.row_bytes(), 0);
    keys.extend(stored.data());
    let (q, w) = (Matrix::from_vec(vec![1.0; 2 * 32], 32), Matrix::from_vec(vec![0.5, 0.25], 2));
    let got = everywhere(|c| {
        let segment = IndexSegment { tokens: 0..1, first_position: 4 * count - 1, keys: &keys };
        let selection = index_select(c, q.view(), w.view(), &[segment], &codec, 4, planted.len());
        selection.of(0).iter().map(|&j| j as f32).collect()
    });
    assert!(got.iter().map(|&j| j as usize).eq(planted));
}

#[test]
fn a_token_selects_the_same_in_any_chunk_and_any_batch() {
    let case = Case::new(KvFormat::Fp8, 5, 32, 380..400, 4, false);
    let whole = case.lists(9);
    for cuts in [vec![0, 20], vec![0, 1, 2, 20], vec![0, 7, 8, 19, 20], (0..=20).collect()] {
        for cut in cuts.windows(2) {
            // The keys of later tokens do not exist yet.
            let mut keys = case.keys.clone();
            keys.truncate((case.first_position + cut[1]) / case.ratio);
            let segment =
                IndexSegment { tokens: 0..cut[1] - cut[0], first_position: 380 + cut[0], keys: &keys };
            let other = IndexSegment {
                tokens: cut[1] - cut[0]..cut[1] - cut[0] + 2,
                first_position: 7,
                keys: &case.keys,
            };
            let mut q = case.q.data()[cut[0] * 5 * 32..cut[1] * 5 * 32].to_vec();
            let mut w = case.w.data()[cut[0] * 5..cut[1] * 5].to_vec();
            q.extend(uniform(2 * 5 * 32, 6));
            w.extend(uniform(2 * 5, 7));
            let (q, w) = (Matrix::from_vec(q, 32), Matrix::from_vec(w, 5));
            let selection = index_select(&scalar(), q.view(), w.view(), &[segment, other], &case.codec, 4, 9);
            for (token, list) in whole[cut[0]..cut[1]].iter().enumerate() {
                assert_eq!(selection.of(token), list, "token {token} from {} on, {cuts:?}", cut[0]);
            }
        }
    }
}

#[test]
fn scores_that_are_no_numbers_lose_and_zeros_of_both_signs_tie() {
    let codec = IndexKeyCodec { format: KvFormat::F32, dim: 2 };
    let mut keys = PagedRows::new(codec.row_bytes(), 0);
    // With q = [1, 1]: NaN, negative (so relu 0), positive, negative, positive; the weight is negative.
    for key in [[f32::NAN, 0.0], [-1.0, 0.0], [1.0, 0.0], [-2.0, 0.0], [3.0, 0.0]] {
        keys.extend(&key.map(f32::to_le_bytes).concat());
    }
    let (q, w) = (Matrix::from_vec(vec![1.0; 2], 2), Matrix::from_vec(vec![-1.0], 1));
    let lists = |k| {
        let segment = IndexSegment { tokens: 0..1, first_position: 4, keys: &keys };
        index_select(&scalar(), q.view(), w.view(), &[segment], &codec, 1, k).of(0).to_vec()
    };
    assert_eq!(lists(1), [1]);
    assert_eq!(lists(2), [1, 3]);
    assert_eq!(lists(3), [1, 2, 3]);
    assert_eq!(lists(4), [1, 2, 3, 4]);
}

#[test]
fn the_best_pairs_do_not_depend_on_the_order_or_pieces_in_which_they_come() {
    let scores = [2.0, -0.0, f32::NAN, 0.0, -1.0, 2.0, f32::NEG_INFINITY];
    for (k, want) in [vec![0], vec![0, 5], vec![0, 1, 5], vec![0, 1, 3, 5]].into_iter().enumerate() {
        let mut whole = TopK::new(k + 1);
        whole.offer(0, &scores);
        let (mut late, mut early) = (TopK::new(k + 1), TopK::new(k + 1));
        late.offer(3, &scores[3..]);
        early.offer(0, &scores[..3]);
        late.absorb(&early);
        assert_eq!((whole.entries(), late.entries()), (want.clone(), want));
    }
}

#[test]
fn rows_outside_all_segments_select_nothing() {
    let case = Case::new(KvFormat::Fp8, 1, 32, 40..44, 4, false);
    let segment = IndexSegment { tokens: 1..2, first_position: 41, keys: &case.keys };
    let selection = index_select(&scalar(), case.q.view(), case.w.view(), &[segment], &case.codec, 4, 3);
    assert_eq!((0..4).map(|token| selection.of(token).len()).collect::<Vec<_>>(), [0, 3, 0, 0]);
}

#[test]
fn fp4_keys_are_ordered_by_the_bits_of_the_formula() {
    for (heads, dim, positions) in [
        (1, 8, 98..99),
        (3, 40, 90..91),
        (7, 96, 150..152),
        (64, 128, 199..200),
        (5, 160, 70..71),
        (2, 512, 60..61),
    ] {
        let mut case = Case::new(KvFormat::Fp8, heads, dim, positions, 1, false);
        // Scales of many sizes, beyond what counts among them.
        for (i, x) in case.q.data_mut().chunks_mut(32.min(dim)).enumerate() {
            x.iter_mut().for_each(|x| *x *= 2f32.powi([0, -3, -9, 2][i % 4]));
        }
        let raw = uniform(case.keys.range().end * dim, 11);
        let raw: Vec<f32> =
            raw.iter().enumerate().map(|(i, x)| x * 2f32.powi(-((i / 32 % 7) as i32) * 3)).collect();
        let mut stored = Matrix::zeros(raw.len() / dim, case.codec.row_bytes());
        encode_index_keys(&scalar(), &case.codec, MatRef::new(&raw, raw.len() / dim, dim), stored.view_mut());
        case.keys = PagedRows::new(case.codec.row_bytes(), 0);
        case.keys.extend(stored.data());
        for token in 0..case.w.rows() {
            let keys: Vec<&[u8]> = (0..case.visible(token)).map(|j| case.keys.row(j)).collect();
            let q = &case.q.data()[token * heads * dim..][..heads * dim];
            let scores = reference::coded_scores(&case.codec, q, case.w.row(token), &keys);
            let scores: Vec<f64> = scores.into_iter().map(|x| f64::from(x) + 0.0).collect();
            for k in (1..scores.len()).step_by(3) {
                let want = reference::select(&scores, k);
                assert_eq!(case.lists(k)[token], want, "{heads} {dim} {token} {k}");
            }
        }
    }
}

#[test]
fn fp4_queries_with_scales_within_a_factor_of_eight_lose_nothing() {
    for seed in 0..50 {
        let mut q = Matrix::from_vec(uniform(128, seed), 128);
        let sizes = [1.0, 0.5, 0.25, 0.14].map(|x: f32| x * 2f32.powi(seed as i32 - 25));
        for (x, size) in q.data_mut().chunks_mut(32).zip(sizes) {
            x.iter_mut().for_each(|x| *x *= size);
            x[0] = size; // so that the scales lie as far apart as the sizes do
        }
        quantise_index_queries(&scalar(), q.view_mut());
        let unit = queries::unit(q.data().iter().fold(0.0, |max: f32, x| max.max(x.abs())));
        for &x in q.data() {
            let code = (x / unit).round_ties_even();
            assert!(code.abs() <= 127.0 && code * unit == x, "{x} with {unit}");
        }
    }
    for (amax, want) in
        [(0.0, -126), (1e-40, -126), (127.0, 0), (127.00001, 1), (96.0, 0), (6.0, -4), (63.5, -1)]
    {
        assert_eq!(queries::unit(amax), 2f32.powi(want), "{amax}");
    }
}

#[test]
fn a_query_that_is_no_number_selects_the_oldest_entries_and_harms_no_other_token() {
    for bad in [f32::NAN, f32::INFINITY] {
        let mut case = Case::new(KvFormat::Fp8, 3, 32, 100..103, 1, false);
        let before = case.lists(5);
        case.q.row_mut(4)[7] = bad; // head 1 of token 1
        let after = case.lists(5);
        assert_eq!((&after[0], &after[2]), (&before[0], &before[2]));
        assert_eq!(after[1], [0, 1, 2, 3, 4]);
    }
}

#[test]
fn the_needle_that_sits_beyond_the_top_k_limit_is_found() {
    const COUNT: usize = 262_144;
    const HEADS: usize = 64;
    let codec = IndexKeyCodec { format: KvFormat::Fp8, dim: 128 };
    let depths = [0, 1, 511, 512, 65_537, 131_072, 200_003, COUNT - 513, COUNT - 1];
    let fast = compute(Isa::best(), 2);
    let needles = uniform(depths.len() * 128, 21);
    let mut x = Matrix::from_vec(uniform(COUNT * 128, 20), 128);
    for (&depth, needle) in depths.iter().zip(needles.chunks_exact(128)) {
        x.row_mut(depth).copy_from_slice(needle);
    }
    let mut stored = Matrix::zeros(COUNT, codec.row_bytes());
    encode_index_keys(&fast, &codec, x.view(), stored.view_mut());
    let mut keys = PagedRows::new(codec.row_bytes(), 0);
    keys.extend(stored.data());
    let w = Matrix::from_vec(vec![1.0 / HEADS as f32; HEADS], HEADS);
    for threads in 1..=3 {
        let c = compute(Isa::best(), threads);
        for (&depth, needle) in depths.iter().zip(needles.chunks_exact(128)) {
            // Every head asks for the needle, and for something else as much.
            let noise = uniform(HEADS * 128, 22);
            let q = noise.chunks_exact(128).flat_map(|noise| noise.iter().zip(needle).map(|(a, b)| a + b));
            let mut q = Matrix::from_vec(q.collect(), 128);
            quantise_index_queries(&c, q.view_mut());
            let segment = IndexSegment { tokens: 0..1, first_position: 4 * COUNT - 1, keys: &keys };
            for k in [1, 512] {
                let selection =
                    index_select(&c, q.view(), w.view(), std::slice::from_ref(&segment), &codec, 4, k);
                let found = selection.of(0);
                assert_eq!(found.len(), k);
                assert!(found.contains(&(depth as u32)), "entry {depth}, {threads} threads, {k} best");
            }
        }
    }
}

#[test]
fn of_equal_scores_the_lower_entry_wins_behind_two_to_the_31_too() {
    let mut best = TopK::new(3);
    best.offer(u32::MAX as usize - 3, &[1.0, 1.0]);
    best.offer((1 << 31) - 1, &[1.0, 1.0, 0.5]);
    assert_eq!(best.entries(), [i32::MAX as u32, 1 << 31, u32::MAX - 3]);
}
