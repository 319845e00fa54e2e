#![allow(clippy::unwrap_used)]

use super::*;
use crate::Part;

fn flash() -> ModelConfig {
    ModelConfig::flash()
}

fn pro() -> ModelConfig {
    ModelConfig::pro()
}

#[test]
fn released_shapes_have_the_published_numbers_of_parameters() {
    let flash = parameters(&flash(), Precision::Official, true);
    assert_eq!(flash.total, 284_332_240_471);
    assert_eq!(flash.mtp, 6_610_048_891);
    let pro = parameters(&pro(), Precision::Official, true);
    assert_eq!(pro.total, 1_572_997_201_763);
    assert_eq!(pro.mtp, 25_840_145_979);
}

#[test]
fn active_parameters_are_those_of_the_chosen_experts_and_all_the_rest() {
    let billions = |n: u64| (n as f64 / 1e7).round() / 100.0;
    let flash = parameters(&flash(), Precision::Official, false);
    assert_eq!(billions(flash.active), 13.80);
    assert_eq!(billions(flash.active_without_embedding), 13.27);
    let pro = parameters(&pro(), Precision::Official, false);
    assert_eq!(billions(pro.active), 49.78);
}

#[test]
fn released_checkpoints_have_the_published_tensors_and_bytes() {
    let flash = parameters(&flash(), Precision::Official, true);
    assert_eq!((flash.tensors, flash.bytes), (69_187, 159_609_485_896));
    let mtp = flash.parts[&Part::Mtp];
    assert_eq!((mtp.tensors, mtp.bytes), (1575, 3_593_787_756));
    let dtypes: Vec<_> = flash.dtypes.into_iter().collect();
    let want =
        [("BF16", 433), ("F32", 417), ("F8_E4M3", 375), ("F8_E8M0", 34_167), ("I64", 3), ("I8", 33_792)];
    assert_eq!(dtypes, want);
    let pro = parameters(&pro(), Precision::Official, true);
    assert_eq!((pro.tensors, pro.bytes), (145_116, 864_704_792_696));
    let mtp = pro.parts[&Part::Mtp];
    assert_eq!((mtp.tensors, mtp.bytes), (2343, 13_956_587_692));
}

#[test]
fn a_decoded_token_reads_the_published_bytes_of_weights() {
    let flash = parameters(&flash(), Precision::Official, true);
    assert_eq!(flash.expert_bytes, 13_369_344);
    assert!(
        (11.1e9..11.3e9).contains(&(flash.read_bytes_per_token as f64)),
        "{}",
        flash.read_bytes_per_token
    );
    let pro = parameters(&pro(), Precision::Official, true);
    assert!((39.6e9..39.8e9).contains(&(pro.read_bytes_per_token as f64)), "{}", pro.read_bytes_per_token);
}

#[test]
fn attention_state_takes_the_published_bytes() {
    let million = 1 << 20;
    let (flash, pro) = (state_bytes(&flash(), million), state_bytes(&pro(), million));
    assert_eq!((flash.bytes_per_token, pro.bytes_per_token), (3514.25, 5031.4375));
    assert_eq!((flash.growing(), pro.growing()), (3_684_958_208, 5_275_844_608));
    assert_eq!(flash.windows, 43 * 128 * 584);
    assert_eq!(flash.pending, (21 * 80 + 20 * 512) * 1024);
    assert_eq!(V32::RELEASED.kv_bytes_per_token(), 48_068);
    let at_128k = state_bytes(&ModelConfig::flash(), 131_072);
    assert_eq!(at_128k.growing(), 460_619_776);
}

#[test]
fn attention_state_is_7_and_10_percent_of_v32() {
    let percent = |config: &ModelConfig| {
        (account(config, Precision::Official, true, 1_000_000).kv_ratio() * 1e4).round() / 100.0
    };
    assert_eq!((percent(&flash()), percent(&pro())), (7.31, 10.47));
}

#[test]
fn operations_per_token_are_10_and_27_percent_of_v32() {
    let round = |ratio: f64| (ratio * 1e4).round() / 100.0;
    let flash = account(&flash(), Precision::Official, true, 1_000_000);
    let pro = account(&pro(), Precision::Official, true, 1_000_000);
    assert_eq!((round(flash.flops_ratio()), round(pro.flops_ratio())), (10.16, 27.02));
    let tenth = |ratio: f64| (ratio * 1e3).round() / 10.0;
    assert_eq!((tenth(flash.flops_ratio_raw()), tenth(pro.flops_ratio_raw())), (12.2, 26.5));
}

#[test]
fn operations_split_as_published() {
    let giga = |flops: f64| (flops / 1e7).round() / 100.0;
    let parts = |f: Flops| [f.fp8_weights, f.routed_experts, f.small, f.core_attention, f.indexer].map(giga);
    assert_eq!(parts(flops_per_token(&flash(), 1_000_000)), [11.71, 12.99, 1.84, 22.61, 86.02]);
    assert_eq!(parts(flops_per_token(&pro(), 1_000_000)), [45.4, 48.36, 3.94, 73.58, 122.88]);
    let v32 = V32::RELEASED.flops_per_token(1_000_000);
    assert_eq!(parts(v32), [70.78, 0.0, 2.12, 34.8, 999.42]);
    assert_eq!(giga(v32.absorbed), 2.05);
}

#[test]
fn the_bytes_of_a_shape_are_those_of_the_checkpoint_that_synth_writes() {
    let mut config = crate::test_shapes::tiny();
    config.n_routed_experts = 4;
    for precision in [Precision::Official, Precision::Base, Precision::Bf16, Precision::F32] {
        let (_folder, checkpoint) = crate::test_shapes::written(&config, |o| o.precision = precision);
        let count = parameters(checkpoint.config(), precision, true);
        assert_eq!(
            (count.tensors as usize, count.bytes),
            (checkpoint.n_tensors(), checkpoint.tensor_bytes())
        );
    }
}
