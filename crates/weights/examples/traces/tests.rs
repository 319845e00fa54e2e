use proptest::prelude::*;

use crate::generate;
use crate::replay::{Belady, Foresight, Lfu, Lru, Popular, Rule, policy_reads, reads};
use crate::trace::{Trace, distinct};

/// The fewest reads, by trying every choice. Experts are bits.
fn fewest_reads(sets: &[Vec<usize>], capacity: usize, resident: u32) -> usize {
    let Some((set, rest)) = sets.split_first() else { return 0 };
    let needed: u32 = set.iter().map(|expert| 1 << expert).sum();
    let all = resident | needed;
    let is_allowed = |kept: u32| {
        let fits = kept.count_ones() as usize <= capacity;
        let is_known = kept & !all == 0;
        // Nothing that the set needs makes room for something else.
        let together = if set.len() <= capacity { needed & !kept == 0 } else { kept & !needed == 0 };
        fits && is_known && together
    };
    let ways = (0..=all).filter(|&kept| is_allowed(kept));
    let later = ways.map(|kept| fewest_reads(rest, capacity, kept)).min();
    (needed & !resident).count_ones() as usize + later.expect("to keep nothing but the set is a way")
}

fn sets() -> impl Strategy<Value = Vec<Vec<usize>>> {
    let set = prop::collection::btree_set(0_usize..5, 1..3).prop_map(|set| set.into_iter().collect());
    prop::collection::vec(set, 1..6)
}

/// Two layers of `n` experts.
fn trace() -> impl Strategy<Value = Trace> {
    let layer = || prop::collection::vec(0_u16..6, 1..4).prop_map(|ids| distinct(ids.into_iter()));
    let step = (layer(), layer()).prop_map(|(a, b)| vec![a, b]);
    let name = "random".to_owned();
    prop::collection::vec(step, 1..60).prop_map(move |steps| Trace {
        name: name.clone(),
        n_layers: 2,
        n_experts: 6,
        steps,
        process: None,
    })
}

proptest! {
    #[test]
    fn belady_reads_as_few_as_the_best_of_all_choices(sets in sets(), capacity in 0_usize..5) {
        let belady = reads(&sets, capacity, &mut Belady::new(&sets));
        prop_assert_eq!(belady, fewest_reads(&sets, capacity, 0));
    }

    #[test]
    fn no_rule_reads_less_than_belady(trace in trace(), capacity in 0_usize..12) {
        let sets = trace.sets();
        let belady = reads(&sets, capacity, &mut Belady::new(&sets));
        let (mut popular, mut perfect) = (Popular::in_hindsight(&sets), Lfu::perfect(&sets));
        let mut in_cache = Lfu::in_cache(&sets);
        let rules: [&mut dyn Rule; 4] = [&mut Lru, &mut popular, &mut perfect, &mut in_cache];
        for rule in rules {
            prop_assert!(reads(&sets, capacity, rule) >= belady);
        }
        prop_assert!(policy_reads(&trace, capacity) >= belady);
    }
}

#[test]
fn with_room_for_all_every_expert_is_read_once() {
    for trace in generate::all(20) {
        let sets = trace.sets();
        let used: std::collections::BTreeSet<_> = sets.iter().flatten().collect();
        assert_eq!(policy_reads(&trace, trace.n_total()), used.len());
        assert_eq!(reads(&sets, trace.n_total(), &mut Lru), used.len());
    }
}

/// Of experts that are drawn alike in every step, the likelier one is used more often.
#[test]
fn what_is_said_to_be_likely_is_used_more_often() {
    for trace in generate::all(400).iter().filter(|trace| trace.name.starts_with("zipf")) {
        let [chances] = &trace.process.as_ref().expect("it was made up").chances[..] else {
            panic!("{} has one topic", trace.name)
        };
        let mut uses = vec![0; trace.n_total()];
        trace.sets().iter().flatten().for_each(|&expert| uses[expert] += 1);
        let of_layer = |layer: usize| layer * trace.n_experts..(layer + 1) * trace.n_experts;
        let mut quarters = [0; 4];
        for layer in 0..trace.n_layers {
            let mut experts: Vec<usize> = of_layer(layer).collect();
            experts.sort_by(|&a, &b| chances[a].total_cmp(&chances[b]));
            let sum: f64 = experts.iter().map(|&expert| chances[expert]).sum();
            assert!((sum - 1.0).abs() < 1e-9, "chances of a layer add up to {sum}");
            experts.iter().enumerate().for_each(|(i, &expert)| quarters[i / 64] += uses[expert]);
        }
        assert!(quarters.is_sorted_by(|less, more| less < more), "{}: {quarters:?}", trace.name);
    }
}

/// Who knows the process reads less than who has to learn it.
#[test]
fn foresight_reads_less_than_counting_wherever_the_process_is_more_than_a_popularity() {
    for trace in generate::all(300).iter().filter(|trace| !trace.name.starts_with("zipf")) {
        let (sets, capacity) = (trace.sets(), trace.n_total() / 4);
        let mut foresight = Foresight::of(trace).expect("it was made up");
        let known = reads(&sets, capacity, &mut foresight);
        assert!(known < reads(&sets, capacity, &mut Lfu::perfect(&sets)), "{}", trace.name);
        assert!(known >= reads(&sets, capacity, &mut Belady::new(&sets)), "{}", trace.name);
    }
}

#[test]
fn made_up_traces_are_the_same_every_time() {
    for (a, b) in generate::all(5).iter().zip(&generate::all(5)) {
        assert_eq!(a.steps, b.steps, "{}", a.name);
        assert!(a.steps.iter().flatten().all(|set| set.is_sorted() && set.len() >= 6));
    }
}
