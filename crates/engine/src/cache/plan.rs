//! Which positions of a sequence are worth a state.

use std::ops::Range;

/// Tokens of a block: the least distance between states that nobody asked for. A disk segment is one block.
pub(crate) const BLOCK: usize = 128;

/// How far apart states inside a text are kept that lie `depth` tokens before its end: at most a sixteenth of the
/// depth, so that whoever changes the text there computes on average a thirty-second more than had to be. The
/// distances are powers of two, so that what is kept at one depth is among what was kept at a lesser one.
pub(crate) fn spacing(depth: usize) -> usize {
    let blocks = depth / (16 * BLOCK);
    BLOCK << blocks.checked_ilog2().unwrap_or(0)
}

/// Whether a state at `position` is kept inside a text that goes on to `end`.
pub(crate) fn is_kept_inside(position: usize, end: usize) -> bool {
    position.is_multiple_of(spacing(end - position))
}

/// The positions inside a step's chunk, its end included, at which a state is kept: of a prompt with `n_prompt` tokens
/// what its end and `marks` ask for, then every block's end.
pub(crate) fn points(chunk: Range<usize>, n_prompt: usize, marks: &[usize]) -> Vec<usize> {
    let first = chunk.start / BLOCK + 1;
    let inside = (first..=chunk.end / BLOCK).map(|block| block * BLOCK);
    let inside = inside.filter(|&at| at >= n_prompt || is_kept_inside(at, n_prompt));
    let asked = marks.iter().copied().chain([n_prompt]);
    let asked = asked.filter(|&at| at <= n_prompt && chunk.start < at && at <= chunk.end);
    let mut points: Vec<usize> = inside.chain(asked).collect();
    points.sort_unstable();
    points.dedup();
    points
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn states_lie_densely_near_the_end_and_sparsely_far_from_it() {
        assert_eq!([0, 4_095, 4_096, 8_191, 8_192].map(spacing), [128, 128, 256, 256, 512]);
        let points = points(0..100_000, 100_000, &[]);
        assert!(points.len() < 110, "{} states of a prompt of 100,000 tokens", points.len());
        assert_eq!(points.last(), Some(&100_000));
    }

    #[test]
    fn marks_and_the_prompts_end_are_points_and_an_answer_has_one_per_block() {
        assert_eq!(points(0..300, 300, &[50, 301]), [50, 128, 256, 300]);
        assert_eq!(points(50..300, 1_000, &[50]), [128, 256]);
        assert!(points(300..301, 300, &[]).is_empty());
        assert_eq!(points(383..384, 300, &[]), [384]);
    }

    proptest! {
        #[test]
        fn a_text_cut_anywhere_loses_at_most_a_sixteenth_or_a_block(n in 1usize..200_000, cut in 0usize..200_000) {
            let cut = cut.min(n);
            let kept = points(0..n, n, &[]).into_iter().filter(|&at| at <= cut).max().unwrap_or(0);
            prop_assert!(cut - kept <= BLOCK.max((n - kept) / 16));
        }

        #[test]
        fn what_is_kept_of_a_longer_text_was_kept_of_the_shorter(at in 0usize..10_000, end in 0usize..50_000, more in 0usize..50_000) {
            let (at, end) = (at * BLOCK, end + at * BLOCK);
            prop_assert!(is_kept_inside(at, end) || !is_kept_inside(at, end + more));
        }

        #[test]
        fn chunks_have_no_say_in_the_points(n in 1usize..5_000, chunk in 1usize..700, mark in 0usize..5_000) {
            let chunks = (0..n).step_by(chunk).map(|start| start..(start + chunk).min(n));
            let parts: Vec<usize> = chunks.flat_map(|chunk| points(chunk, n, &[mark])).collect();
            prop_assert_eq!(parts, points(0..n, n, &[mark]));
        }
    }
}
