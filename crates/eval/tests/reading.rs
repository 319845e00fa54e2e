//! What is measured over documents is what training measures, also across the chunks in which documents are read.

use std::num::NonZeroUsize;
use std::path::Path;

use cuvier_encoding::{Generation, Tokenizer};
use cuvier_eval::{Cell, Passages, Reader, Report, bpb, mtp};
use cuvier_model::{Compute, Isa, KvFormat, Matrix, TokenId, Transformer};
use cuvier_train::data::Encoder;
use cuvier_train::trainer::{Targets, cross_entropy_of};
use cuvier_weights::Checkpoint;

struct Calf {
    model: Transformer,
    compute: Compute,
    tokenizer: Tokenizer,
}

impl Calf {
    fn open() -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/calf");
        let checkpoint = Checkpoint::open(&folder).expect("the calf opens");
        let compute = Compute::new(Isa::best(), NonZeroUsize::MIN).expect("one thread");
        let tokenizer = Tokenizer::from_file(&folder.join("tokenizer.json")).expect("its tokenizer");
        Self { model: Transformer::load(&checkpoint, &compute).expect("it loads"), compute, tokenizer }
    }

    /// As a training pass computes: attention state without rounding.
    fn reader(&self) -> Reader<'_> {
        Reader { model: &self.model, compute: &self.compute, kv: KvFormat::F32 }
    }

    /// A text of several chunks.
    fn passages(&self) -> Passages {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("text.txt");
        let sentences =
            (0..60).map(|i| format!("The code of box {i} is {}. Anna saw the red boat. ", 37 * i % 101));
        std::fs::write(&file, sentences.collect::<String>()).expect("written");
        let encoder = Encoder { tokenizer: &self.tokenizer, generation: Generation::Revised0731 };
        Passages::read(&file, None, 10_000, encoder).expect("read")
    }
}

fn cell<'a>(report: &'a Report, name: &str) -> &'a Cell {
    report.rows[0].get(name).expect(name)
}

fn argmax(logits: &[f32]) -> usize {
    (0..logits.len()).fold(0, |best, at| if logits[at] > logits[best] { at } else { best })
}

#[test]
fn nats_per_token_are_the_loss_of_training() {
    let calf = Calf::open();
    let passages = calf.passages();
    let document = &passages.list[0].document;
    assert!(
        document.len() > 2 * 256 && !document.len().is_multiple_of(256),
        "several chunks: {}",
        document.len()
    );
    let report = bpb::run(&calf.reader(), &passages, &calf.tokenizer, &mut |_, _| {}).expect("read");

    let mut pass = calf
        .model
        .training_pass(&[&document.tokens], false, KvFormat::F32, None, &calf.compute)
        .expect("a pass");
    let targets = Targets::next(&[document]);
    let want = cross_entropy_of(&calf.compute, &mut pass.logits, &targets, 0.0) / targets.count() as f64;
    let Cell::Estimate(nats) = cell(&report, "nats per token") else { panic!("an estimate") };
    assert_eq!(cell(&report, "tokens"), &Cell::Count(targets.count() as u64));
    assert!((nats.value - want).abs() < 1e-5 * want, "{} and {want}", nats.value);
}

#[test]
fn the_block_is_compared_with_what_the_model_says_one_token_later() {
    let calf = Calf::open();
    let passages = calf.passages();
    let tokens: &[TokenId] = &passages.list[0].document.tokens;
    let report = mtp::run(&calf.reader(), &passages, &[], 40, &mut |_, _| {}).expect("read");

    let pass = calf.model.training_pass(&[tokens], true, KvFormat::F32, None, &calf.compute).expect("a pass");
    let said = |logits: &Matrix| logits.view().iter().map(argmax).collect::<Vec<_>>();
    let (model, block) = (said(&pass.logits), said(pass.mtp_logits.as_ref().expect("a block")));
    // Row t of the block and row t + 1 of the model are both about token t + 2; the last of the model is about none.
    let pairs: Vec<(usize, usize, usize)> =
        (0..tokens.len() - 2).map(|t| (block[t], model[t + 1], tokens[t + 2].0 as usize)).collect();
    let count =
        |is: &dyn Fn(&(usize, usize, usize)) -> bool| pairs.iter().filter(|pair| is(pair)).count() as u64;
    let Cell::Share(agrees) = cell(&report, "agrees") else { panic!("a share") };
    let Cell::Share(right) = cell(&report, "draft right") else { panic!("a share") };
    assert_eq!((agrees.count, agrees.of), (count(&|p| p.0 == p.1), pairs.len() as u64));
    assert_eq!((right.count, right.of), (count(&|p| p.0 == p.2), pairs.len() as u64));

    let Cell::Share(identical) = cell(&report, "identical") else { panic!("a share") };
    assert_eq!((identical.count, identical.of), (1, 1));
}
