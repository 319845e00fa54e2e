//! What lies behind 2^31 elements or bytes is found where it is. Nearly all of these buffers is never touched, so that
//! the system gives no memory for it.

use cuvier_tensor::{
    Dtype, Int8Panel, MatMut, Matrix, PANEL_ROWS, PagedRows, Tensor, WeightFormat, WeightMatrix, panels_of,
};

use crate::fp4::Blocks;
use crate::gemm::tests::Stored;
use crate::gemm::{Inputs, decode, product};
use crate::int8::{self, Strips, pack_strips};
use crate::testing::{compute, everywhere, scalar, uniform};
use crate::{
    Activations, AttentionConfig, AttentionSegment, CompressorShape, Compute, DisjointRows, Entries,
    EntryCodec, IndexKeyCodec, IndexSegment, Isa, KvFormat, Selection, attention, compress, embed,
    encode_entries, encode_index_keys, index_select, pack,
};

const ROWS: usize = 80;
const COLS: usize = 4096;

/// Rows before the ones looked at: 2^31 elements and 2^31 bytes at least. F32 has 2^32 bytes after half as many.
fn far(stored: Stored) -> usize {
    match stored {
        Stored::F32 => (1 << 30) / COLS,
        Stored::Bf16 | Stored::Fp8 | Stored::Fp8WithF32Scales => (1 << 31) / COLS,
        Stored::Fp4 => (1 << 32) / COLS,
    }
}

/// `rows` rows of zeros, then those of `tensor`.
fn behind(tensor: &Tensor, rows: usize) -> Tensor {
    let mut shape = tensor.shape().to_vec();
    let start = rows * (tensor.bytes().len() / shape[0]);
    let mut bytes = vec![0; start + tensor.bytes().len()];
    bytes[start..].copy_from_slice(tensor.bytes());
    shape[0] += rows;
    Tensor::from_bytes(bytes, tensor.dtype(), shape).expect("the shape fits")
}

/// `rows` rows of zeros, then those of `w`.
fn weights_behind(w: &WeightMatrix, rows: usize) -> WeightMatrix {
    let scales = |tensor: &Tensor| match tensor.dtype() {
        Dtype::F8E8M0 if matches!(w.format(), WeightFormat::Fp4 { .. }) => behind(tensor, rows),
        _ => behind(tensor, rows / 128),
    };
    WeightMatrix::new(match w.format() {
        WeightFormat::F32(weight) => WeightFormat::F32(behind(weight, rows)),
        WeightFormat::Bf16(weight) => WeightFormat::Bf16(behind(weight, rows)),
        WeightFormat::Fp8 { weight, scale } => {
            WeightFormat::Fp8 { weight: behind(weight, rows), scale: scales(scale) }
        }
        WeightFormat::Fp4 { weight, scale } => {
            WeightFormat::Fp4 { weight: behind(weight, rows), scale: scales(scale) }
        }
        WeightFormat::Int8(_) => panic!("panels have no rows"),
    })
    .expect("the parts fit")
}

/// Products of a few tokens with the last [`ROWS`] rows of `w`.
fn last_products(c: &Compute, w: &WeightMatrix, tokens: usize) -> Vec<u32> {
    let x = Matrix::from_vec(uniform(tokens * COLS, 5), COLS);
    let x = Activations::new(x.view());
    let inputs = Inputs::new(c, &x, [w]);
    let mut gathered = Blocks::default();
    inputs.gather(c.isa(), &[w], &mut gathered);
    let mut all = Vec::new();
    for rows in [0..64, 64..ROWS] {
        let rows = w.rows() - ROWS + rows.start..w.rows() - ROWS + rows.end;
        let mut out = vec![f32::NAN; tokens * rows.len()];
        product(c.isa(), inputs, &gathered, w, rows, &mut out);
        all.extend(out.iter().map(|x| x.to_bits()));
    }
    all
}

#[test]
fn rows_of_weights_behind_two_to_the_31_elements_decode_and_multiply_as_they_do_alone() {
    for stored in Stored::ALL {
        let near = stored.draw(ROWS, COLS, 3);
        let far = weights_behind(&near, far(stored));
        assert!(far.rows() * COLS * 2 > 1 << 31, "{stored:?}");
        for isa in Isa::available() {
            let c = compute(isa, 1);
            for tokens in [1, 3, 20] {
                let [near, far] = [&near, &far].map(|w| last_products(&c, w, tokens));
                assert!(near == far, "{stored:?}, {tokens} tokens on {}", isa.name());
            }
            let decoded = |w: &WeightMatrix, row| {
                let mut out = vec![f32::NAN; COLS];
                decode(isa, w, row, &mut out);
                out
            };
            assert_eq!(decoded(&near, ROWS - 1), decoded(&far, far.rows() - 1), "{stored:?}");
        }
        let ids = [far.rows() - ROWS, far.rows() - 2, 1].map(|row| row as u32);
        let mut out = Matrix::zeros(ids.len(), COLS);
        embed(&compute(Isa::best(), 2), &ids, &far, out.view_mut());
        let mut want = Matrix::zeros(2, COLS);
        embed(&scalar(), &[0, ROWS as u32 - 2], &near, want.view_mut());
        assert!(out.data()[..2 * COLS] == *want.data() && out.row(2).iter().all(|&x| x == 0.0), "{stored:?}");
    }
}

#[test]
fn packed_weights_behind_two_to_the_31_codes_multiply_as_they_do_alone() {
    let rows = far(Stored::Fp8);
    let stored = Stored::Fp8.draw(ROWS, COLS, 3);
    let WeightFormat::Int8(near) = pack(&scalar(), &stored).format().clone() else { panic!("packed") };
    let start = panels_of(rows, COLS);
    // Zeros of this alignment would be written one by one if they were asked for.
    let mut zeros = vec![0u8; (start + near.len() + 1) * size_of::<Int8Panel>()];
    // SAFETY: a panel is integers and f32 numbers, and any bytes are such.
    let (_, far_panels, _) = unsafe { zeros.align_to_mut::<Int8Panel>() };
    far_panels[start..][..near.len()].copy_from_slice(&near);
    let far_panels = &far_panels[..start + near.len()];
    let far_stored = weights_behind(&stored, rows);
    for isa in Isa::available() {
        for tokens in [1, 3, 20] {
            let x = Matrix::from_vec(uniform(tokens * COLS, 5), COLS);
            let x = Activations::new(x.view());
            let mut gathered = Blocks::default();
            Inputs::new(&scalar(), &x, [&stored]).gather(isa, &[&stored], &mut gathered);
            let [near, far] = [(&near[..], 0), (far_panels, rows)].map(|(panels, first)| {
                let mut out = vec![f32::NAN; tokens * 70];
                int8::product(isa, gathered.view(), Strips::new(panels, 0), first + 5..first + 75, &mut out);
                out
            });
            assert!(near == far, "{tokens} tokens on {}", isa.name());
        }
        let mut strips = Vec::new();
        pack_strips(isa, &far_stored, rows..rows + PANEL_ROWS, &mut strips);
        let same = |(a, b): (&Int8Panel, &Int8Panel)| a.codes == b.codes && a.units == b.units;
        assert!(strips.iter().zip(near.iter()).all(same), "packed on {}", isa.name());
    }
}

#[test]
fn outputs_behind_two_to_the_31_elements_are_written_where_they_are_read() {
    let (rows, cols) = ((1 << 21) + 3, 1024);
    let mut out = Matrix::<u8>::zeros(rows, cols);
    out.row_mut(rows - 1)[7] = 3;
    let parts = DisjointRows::new(MatMut::new(out.data_mut(), cols).into_data(), cols);
    // SAFETY: there is one task, and the parts differ.
    unsafe {
        parts.part(rows - 2, 5..6)[0] = 1;
        parts.rows(rows - 3..rows - 2)[4] = 2;
    }
    let view = out.view();
    assert_eq!((view.row(rows - 3)[4], view.row(rows - 2)[5], view.row(rows - 1)[7]), (2, 1, 3));
    assert_eq!(view.columns(4, 2).row(rows - 2), [0, 1]);
}

/// A shift of positions and entries: 2^31 bytes of the shortest rows that are looked at.
const SHIFT: usize = 1 << 22;

/// Rows of `stored` from index `start` on.
fn paged<T: Copy + Default>(stored: &Matrix<T>, start: usize) -> PagedRows<T> {
    let mut rows = PagedRows::new(stored.cols(), start);
    rows.extend(stored.data());
    rows
}

#[test]
fn attention_does_not_depend_on_how_far_its_rows_are_behind_the_first() {
    let (heads, tokens, window) = (4, 3, 128);
    for format in [KvFormat::Fp8, KvFormat::F32] {
        let codec = EntryCodec { format, head_dim: 512, rope_dim: 64 };
        assert!(SHIFT * codec.row_bytes() > 1 << 31);
        let stored = |rows: usize, seed| {
            let x = Matrix::from_vec(uniform(rows * codec.head_dim, seed), codec.head_dim);
            let mut bytes = Matrix::zeros(rows, codec.row_bytes());
            encode_entries(&scalar(), &codec, x.view(), bytes.view_mut());
            bytes
        };
        let (keys, entries) = (stored(window + tokens - 1, 1), stored(64, 2));
        let q = Matrix::from_vec(uniform(tokens * heads * codec.head_dim, 3), heads * codec.head_dim);
        let attn_sink = &uniform(heads, 4)[..];
        let run = |c: &Compute, shift: usize| {
            let (window_rows, entries) = (paged(&keys, shift), paged(&entries, shift));
            let mut selection = Selection::default();
            (0..tokens).for_each(|_| selection.push(&[0, 1, 31, 32, 63].map(|j| (shift + j) as u32)));
            let segment = AttentionSegment {
                tokens: 0..tokens,
                first_position: shift + window - 1,
                window: &window_rows,
                entries: Some(&entries),
            };
            let config = AttentionConfig { codec, attn_sink, sliding_window: window, scale: 0.1 };
            let mut out = Matrix::zeros(tokens, q.cols());
            attention(c, q.view(), &[segment], Entries::Selected(&selection), &config, out.view_mut());
            out.into_vec()
        };
        assert!(everywhere(|c| run(c, 0)) == everywhere(|c| run(c, SHIFT)), "{format:?}");
    }
}

#[test]
fn entries_do_not_depend_on_how_far_their_tokens_are_behind_the_first() {
    for (ratio, overlap) in [(4, true), (128, false)] {
        let shape = CompressorShape { ratio, overlap, dim: 512 };
        assert!(SHIFT * shape.row_len() > 1 << 31);
        let stored = uniform(4 * ratio * shape.row_len(), 1);
        let stored = Matrix::from_vec(stored, shape.row_len());
        let run = |c: &Compute, shift: usize| {
            let mut out = Matrix::zeros(3, shape.dim);
            let first = shift / ratio + 1;
            compress(c, &paged(&stored, shift), shape, first..first + 3, out.view_mut());
            out.into_vec()
        };
        assert!(everywhere(|c| run(c, 0)) == everywhere(|c| run(c, SHIFT)), "ratio {ratio}");
    }
}

#[test]
fn the_last_keys_of_a_million_tokens_are_selected() {
    let (positions, ratio, codec) = (1 << 20, 4, IndexKeyCodec { format: KvFormat::Fp8, dim: 128 });
    let entries: usize = positions / ratio;
    // One key is like the query, the others are zeros.
    let q = Matrix::from_vec((0..codec.dim).map(|i| (i % 3) as f32 - 1.0).collect(), codec.dim);
    let mut like = Matrix::zeros(1, codec.row_bytes());
    encode_index_keys(&scalar(), &codec, q.view(), like.view_mut());
    let planted = [0, 131_071, 131_072, entries - 513, entries - 2, entries - 1];
    let mut keys = PagedRows::new(codec.row_bytes(), 0);
    let zeros = vec![0; codec.row_bytes()];
    for entry in 0..entries {
        keys.extend(if planted.contains(&entry) { like.row(0) } else { &zeros });
    }
    let w = Matrix::from_vec(vec![1.0], 1);
    let found = everywhere(|c| {
        let segment = IndexSegment { tokens: 0..1, first_position: positions - 1, keys: &keys };
        let selection = index_select(c, q.view(), w.view(), &[segment], &codec, ratio, planted.len());
        selection.of(0).iter().map(|&entry| entry as f32).collect()
    });
    assert_eq!(found, planted.map(|entry| entry as f32));
}
