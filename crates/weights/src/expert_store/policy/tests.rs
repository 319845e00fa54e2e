use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const N_LAYERS: u16 = 3;
const N_EXPERTS: u16 = 8;

fn key(layer: u16, expert: u16) -> ExpertKey {
    ExpertKey { layer: LayerId(layer), expert: ExpertId(expert) }
}

fn all_keys() -> impl Iterator<Item = ExpertKey> {
    (0..N_LAYERS).flat_map(|layer| (0..N_EXPERTS).map(move |expert| key(layer, expert)))
}

/// A step uses these experts of a layer together; each is read if it is not resident. How many were.
fn run_layer(policy: &mut Policy, layer: u16, experts: &BTreeSet<u16>) -> usize {
    let keys: Vec<_> = experts.iter().map(|&expert| key(layer, expert)).collect();
    keys.iter().for_each(|&key| policy.touch(key));
    let missing: Vec<_> = keys.iter().filter(|&&key| !policy.contains(key)).collect();
    for &&key in &missing {
        policy.admit(key, |other| keys.contains(&other));
    }
    missing.len()
}

fn run_step(policy: &mut Policy, layers: &[BTreeSet<u16>]) -> usize {
    policy.begin_step();
    (0..).zip(layers).map(|(layer, experts)| run_layer(policy, layer, experts)).sum()
}

/// Steps of few and of many experts per layer, favourites among them.
fn steps() -> impl Strategy<Value = Vec<Vec<BTreeSet<u16>>>> {
    let expert = prop_oneof![0..N_EXPERTS, 0..2_u16];
    let layer = prop_oneof![
        9 => prop::collection::btree_set(expert, 0..4),
        1 => Just((0..N_EXPERTS).collect::<BTreeSet<u16>>()),
    ];
    prop::collection::vec(prop::collection::vec(layer, usize::from(N_LAYERS)), 1..60)
}

proptest! {
    #[test]
    fn more_memory_keeps_all_that_less_keeps_and_never_reads_more(
        steps in steps(), capacity in 0_usize..20, more in 1_usize..6,
    ) {
        let (mut small, mut large) = (Policy::new(capacity), Policy::new(capacity + more));
        for step in &steps {
            small.begin_step();
            large.begin_step();
            for (layer, experts) in (0..).zip(step) {
                let reads = run_layer(&mut small, layer, experts);
                prop_assert!(run_layer(&mut large, layer, experts) <= reads);
                prop_assert!(all_keys().all(|key| large.contains(key) || !small.contains(key)));
            }
        }
    }

    #[test]
    fn the_count_is_right_and_never_above_the_capacity(
        calls in prop::collection::vec((0_u8..4, 0..N_LAYERS, 0..N_EXPERTS), 0..200), capacity in 0_usize..6,
    ) {
        let mut policy = Policy::new(capacity);
        for (call, layer, expert) in calls {
            let (key, is_pinned) = (key(layer, expert), |other: ExpertKey| other.expert.0 == 0);
            let before: BTreeSet<_> = all_keys().filter(|&key| policy.contains(key)).collect();
            match call {
                0 => policy.begin_step(),
                1 => policy.touch(key),
                2 => policy.remove(key),
                _ => match policy.admit(key, is_pinned) {
                    Admission::Free => prop_assert!(policy.contains(key)),
                    Admission::Evict(victim) => {
                        prop_assert!(before.contains(&victim) && !is_pinned(victim));
                        prop_assert!(policy.contains(key) && !policy.contains(victim));
                    }
                    Admission::Full => {
                        prop_assert!(!policy.contains(key) && before.len() == capacity);
                        prop_assert!(before.into_iter().all(is_pinned));
                    }
                },
            }
            let n_resident = all_keys().filter(|&key| policy.contains(key)).count();
            prop_assert_eq!(policy.len(), n_resident);
            prop_assert!(n_resident <= capacity);
        }
    }

    #[test]
    fn what_is_remembered_as_the_least_likely_is_what_a_search_finds(steps in steps(), capacity in 0_usize..20) {
        let mut policy = Policy::new(capacity);
        for step in &steps {
            run_step(&mut policy, step);
            for layer in &mut policy.layers {
                prop_assert_eq!(layer.lowest(|_| false), layer.find_lowest(|_| false));
            }
        }
    }
}

#[test]
fn a_prefill_that_uses_every_expert_drives_out_none_that_decoding_uses_often() {
    let mut policy = Policy::new(12);
    let often: Vec<_> = (0..N_LAYERS).map(|layer| BTreeSet::from([layer, layer + 1])).collect();
    for step in 0..200 {
        let rare = step % N_EXPERTS;
        let with_rare = often.iter().map(|often| often | &BTreeSet::from([rare])).collect::<Vec<_>>();
        run_step(&mut policy, &with_rare);
    }
    let all = vec![(0..N_EXPERTS).collect::<BTreeSet<u16>>(); usize::from(N_LAYERS)];
    for _ in 0..3 {
        run_step(&mut policy, &all);
    }
    assert_eq!(run_step(&mut policy, &often), 0);
}

#[test]
fn after_a_change_of_topic_the_new_one_is_learned() {
    let mut policy = Policy::new(4);
    let topic = |expert| [BTreeSet::from([expert, expert + 1]), BTreeSet::from([expert, expert + 1])];
    (0..500).for_each(|_| {
        run_step(&mut policy, &topic(0));
    });
    let reads: Vec<usize> = (0..100).map(|_| run_step(&mut policy, &topic(4))).collect();
    assert_eq!(reads[0], 4);
    assert_eq!(reads[50..].iter().sum::<usize>(), 0, "{reads:?}");
}

/// A step of one of several topics: in each of twelve layers four of 64 experts, some more often than others.
fn step_of(topic: usize, random: &mut u64) -> Vec<BTreeSet<u16>> {
    let mut draw = |layer: usize| {
        *random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let unit = (*random >> 40) as f64 / (1_u64 << 24) as f64;
        ((17 * topic + 5 * layer + (64.0 * unit.powi(3)) as usize) % 64) as u16
    };
    (0..12).map(|layer| (0..4).map(|_| draw(layer)).collect()).collect()
}

#[test]
fn a_topic_that_comes_back_reads_less_than_it_did_at_first() {
    let (mut policy, mut random) = (Policy::new(12 * 12), 1);
    let mut visit = |topic: usize, steps: usize| -> usize {
        (0..steps).map(|_| run_step(&mut policy, &step_of(topic, &mut random))).sum()
    };
    visit(0, 400);
    let at_first = visit(1, 60);
    visit(1, 340);
    visit(2, 400);
    let again = visit(1, 60);
    assert!(10 * again < 9 * at_first, "{again} after {at_first}");
}

#[test]
fn one_topic_is_not_taken_for_several() {
    let (mut policy, mut random) = (Policy::new(12), 1);
    let mut turns = 0;
    for step in 0..2000 {
        let before = policy.topics.current();
        run_step(&mut policy, &step_of(0, &mut random));
        turns += usize::from(step > 200 && policy.topics.current() != before);
    }
    assert_eq!(turns, 0);
}

#[test]
fn uses_before_an_eviction_still_count() {
    let mut policy = Policy::new(2);
    for expert in [0; 10].into_iter().chain([1; 2]) {
        run_step(&mut policy, &[BTreeSet::from([expert])]);
        policy.remove(key(0, 0));
    }
    policy.admit(key(0, 0), |_| false);
    assert_eq!(policy.admit(key(0, 2), |_| false), Admission::Evict(key(0, 1)));
}

#[test]
fn among_equals_the_one_leaves_whose_layer_comes_last() {
    for here in 0..N_LAYERS {
        let mut policy = Policy::new(usize::from(N_LAYERS));
        (0..N_LAYERS).for_each(|layer| {
            policy.admit(key(layer, 0), |_| false);
        });
        policy.begin_step();
        policy.touch(key(here, 1));
        assert_eq!(policy.admit(key(here, 1), |_| false), Admission::Evict(key(here, 0)));
    }
}

#[test]
fn an_expert_counts_once_per_step_however_often_it_is_touched() {
    let (mut once, mut twice) = (Policy::new(2), Policy::new(2));
    for step in 0..20 {
        for (policy, times) in [(&mut once, 1), (&mut twice, 2)] {
            policy.begin_step();
            (0..times).for_each(|_| policy.touch(key(0, step % 3)));
        }
    }
    assert_eq!(format!("{once:?}"), format!("{twice:?}"));
}

#[test]
fn a_policy_without_room_keeps_nothing() {
    let mut policy = Policy::new(0);
    policy.begin_step();
    policy.touch(key(0, 0));
    assert_eq!(policy.admit(key(0, 0), |_| false), Admission::Full);
    assert_eq!((policy.len(), policy.capacity(), policy.contains(key(0, 0))), (0, 0, false));
}

#[test]
fn numbers_stay_finite_over_a_million_steps() {
    let mut policy = Policy::new(1);
    for step in 0..1_000_000_u32 {
        policy.begin_step();
        policy.touch(key(0, if step == 0 { 1 } else { 0 }));
    }
    let layer = &policy.layers[0];
    let numbers =
        layer.experts.iter().flat_map(|record| record.uses).chain(layer.factors).chain(policy.worth);
    assert!(numbers.into_iter().all(|number| number.is_finite() && number >= 0.0));
    assert!((policy.worth.iter().sum::<f64>() - 1.0).abs() < 0.01);
}
