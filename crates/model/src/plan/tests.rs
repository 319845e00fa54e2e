use std::num::NonZeroUsize;
use std::path::Path;

use cuvier_kernels::{Compute, Isa};
use cuvier_tensor::{WeightFormat, WeightMatrix};
use cuvier_weights::{Checkpoint, Precision};

use super::*;
use crate::Transformer;
use crate::attention::Compressed;

fn flash() -> Stock {
    Stock::of_shape(&ModelConfig::flash(), Precision::Official, true)
}

fn wish(memory: u64) -> Wish {
    Wish {
        memory: Some(memory),
        context: 65_536,
        slots: 1,
        kv: KvFormat::Fp8,
        chunk: StepSize::Chosen,
        logit_rows: 0,
        holds: false,
        other: 100 << 20,
        threads: 2,
    }
}

const GIB: u64 = 1 << 30;

#[test]
fn what_fits_is_loaded_and_what_does_not_is_streamed_within_the_memory() {
    let stock = flash();
    assert!(plan(&stock, wish(200 * GIB)).expect("it fits").streaming.is_none());
    for memory in [12, 16, 24, 48, 96, 128] {
        let plan = plan(&stock, wish(memory * GIB)).expect("it fits, streamed");
        let streaming = plan.streaming.expect("not all of it fits");
        assert!(plan.total() <= memory * GIB, "{memory}");
        // The rest of the memory is less than an expert.
        assert!(plan.total() + stock.expert > memory * GIB, "{memory}");
        assert_eq!(streaming.layers, 44);
        assert!(plan.chunk >= CHUNK_LOADED);
    }
}

#[test]
fn more_memory_never_reads_more_per_token() {
    let stock = flash();
    let reads: Vec<f64> = (5..150)
        .filter_map(|memory| plan(&stock, wish(memory * GIB)).ok())
        .map(|plan| plan.read_bytes_per_token)
        .collect();
    assert!(reads.len() > 140 && reads.is_sorted_by(|less, more| less >= more), "{reads:?}");
}

#[test]
fn the_other_weights_of_pro_are_read_too_where_there_is_no_room_for_them() {
    let stock = Stock::of_shape(&ModelConfig::pro(), Precision::Official, true);
    let plan = plan(&stock, wish(20 * GIB)).expect("it fits, streamed");
    let streaming = plan.streaming.expect("far from all of it");
    assert!(streaming.layers < 62, "{streaming:?}");
    assert!(plan.total() <= 20 * GIB && plan.read_bytes_per_token > 1e9);
}

#[test]
fn what_is_refused_comes_with_settings_that_fit_and_no_less_do() {
    let stock = flash();
    let asked = Wish { context: 1 << 20, slots: 8, ..wish(24 * GIB) };
    let refused = plan(&stock, asked).expect_err("eight full contexts");
    let fits = |wish| plan(&stock, wish).is_ok();
    assert!(fits(Wish { memory: Some(refused.memory), ..asked }));
    assert!(!fits(Wish { memory: Some(refused.memory - 1), ..asked }));
    let context = refused.context.expect("a shorter context fits");
    assert!(fits(Wish { context, ..asked }) && !fits(Wish { context: context + 128, ..asked }));
    let slots = refused.slots.expect("fewer slots fit");
    assert!(fits(Wish { slots, ..asked }) && !fits(Wish { slots: slots + 1, ..asked }));

    let refused = plan(&stock, wish(GIB)).expect_err("not even the head");
    assert_eq!((refused.context, refused.slots), (None, None));
    assert!(fits(wish(refused.memory)));
}

#[test]
fn without_a_ceiling_everything_is_loaded() {
    let all = plan(&flash(), Wish { memory: None, ..wish(0) }).expect("there is no ceiling");
    assert!(all.streaming.is_none() && all.read_bytes_per_token == 0.0);
    assert!(all.weights > 155_000_000_000 && all.chunk == CHUNK_LOADED_ALONE);
    assert_eq!(all.chunk_answering, CHUNK_LOADED);
}

#[test]
fn steps_are_long_where_memory_is_left_for_them_and_never_at_the_price_of_reading_from_disk() {
    let stock = flash();
    let least = least(0, 200 * GIB, |memory| load(&stock, wish(memory), memory).is_some());
    let tight = plan(&stock, wish(least)).expect("it fits");
    assert!(tight.streaming.is_none());
    assert_eq!((tight.chunk, tight.chunk_answering), (CHUNK_LOADED, CHUNK_LOADED));
    let roomy = plan(&stock, wish(least + 10 * GIB)).expect("it fits");
    assert_eq!((roomy.chunk, roomy.chunk_answering), (CHUNK_LOADED_ALONE, CHUNK_LOADED));
    let short = plan(&stock, Wish { context: 100, slots: 1, ..wish(200 * GIB) }).expect("it fits");
    assert_eq!((short.chunk, short.chunk_answering), (100, 100));
}

/// The matrices of a model that are packed.
fn packed(model: &Transformer) -> Vec<&WeightMatrix> {
    let mtp = model.mtp.iter();
    let mut all: Vec<_> = mtp.clone().flat_map(|mtp| [&mtp.e_proj, &mtp.h_proj]).collect();
    all.push(&model.head);
    for layer in model.layers.iter().chain(mtp.map(|mtp| &mtp.layer)) {
        let (attn, shared) = (&layer.attn, &layer.ffn.shared_experts);
        all.extend([&attn.wq_a, &attn.wq_b, &attn.wkv, &attn.wo_a, &attn.wo_b]);
        all.extend([&shared.w1, &shared.w3, &shared.w2]);
        if let Compressed::Csa { indexer, .. } = &attn.compressed {
            all.push(&indexer.wq_b);
        }
    }
    all
}

#[test]
fn what_is_packed_counts_as_packed_and_all_else_as_stored() {
    let calf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/calf");
    let checkpoint = Checkpoint::open(&calf).expect("the calf opens");
    let compute = Compute::new(Isa::best(), NonZeroUsize::MIN).expect("one thread");
    let model = Transformer::load(&checkpoint, &compute).expect("it loads");
    let mut want = checkpoint.tensor_bytes() as i64;
    for weight in packed(&model) {
        assert!(matches!(weight.format(), WeightFormat::Int8(_)));
        let (rows, cols) = (weight.rows(), weight.cols());
        let fp8 = rows * cols + rows.div_ceil(128) * cols.div_ceil(128);
        let stored = if std::ptr::eq(weight, &raw const model.head) { 2 * rows * cols } else { fp8 };
        want += weight.bytes() as i64 - stored as i64;
    }
    let stock = Stock::of_checkpoint(&checkpoint).expect("it is whole");
    // Vectors are widened, tables narrowed; together that is little. Names and places are known of each tensor.
    want += 700 * checkpoint.n_tensors() as i64;
    let got = stock.loaded() as i64;
    assert!((got - want).abs() * 50 < want, "{got} {want}");
}
