//! Where the tensors of an expert lie in blocks of files.

use std::ops::Range;

use crate::checkpoint::Place;
use crate::direct::whole_blocks;

/// Tensors closer to each other than this are read at once: what lies between costs less than a second read.
const GAP_BYTES: u64 = 256 << 10;

/// What is read for one expert, one piece behind the other in its memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) pieces: Vec<Piece>,
    /// For each tensor, in the order given: where its bytes are in memory.
    pub(super) tensors: Vec<Range<usize>>,
}

/// A run of whole blocks of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// An index into the files.
    pub(super) file: usize,
    /// What is read.
    pub(super) blocks: Range<u64>,
    /// The end of what is needed of it.
    pub(super) needed_end: u64,
    /// Where in memory it begins.
    pub(super) at: usize,
}

impl Layout {
    /// Of tensors in any order.
    pub(super) fn new(tensors: &[&Place]) -> Self {
        let mut order: Vec<usize> = (0..tensors.len()).collect();
        order.sort_by_key(|&index| (tensors[index].file, tensors[index].range.start));
        let mut layout = Self { pieces: Vec::new(), tensors: vec![0..0; tensors.len()] };
        for index in order {
            let Place { file, range, .. } = tensors[index];
            let range = range.start as u64..range.end as u64;
            let piece = layout.piece_for(*file, &range);
            let start = piece.at + (range.start - piece.blocks.start) as usize;
            layout.tensors[index] = start..start + (range.end - range.start) as usize;
        }
        layout
    }

    /// The piece that has `range`: the last one, longer, if it ends near; else a new one.
    fn piece_for(&mut self, file: usize, range: &Range<u64>) -> &Piece {
        let blocks = whole_blocks(range);
        let is_near = |piece: &Piece| piece.file == file && range.start <= piece.needed_end + GAP_BYTES;
        if let Some(piece) = self.pieces.last_mut().filter(|piece| is_near(piece)) {
            piece.blocks.end = piece.blocks.end.max(blocks.end);
            piece.needed_end = piece.needed_end.max(range.end);
        } else {
            let at = self.bytes();
            self.pieces.push(Piece { file, blocks, needed_end: range.end, at });
        }
        &self.pieces[self.pieces.len() - 1]
    }

    /// Bytes of memory, which are the bytes read: whole blocks.
    pub(super) fn bytes(&self) -> usize {
        self.pieces.iter().map(Piece::len).sum()
    }
}

impl Piece {
    pub(super) fn len(&self) -> usize {
        (self.blocks.end - self.blocks.start) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::safetensors::StoredDtype;

    fn place(file: usize, range: Range<usize>) -> Place {
        let shape = vec![range.len()];
        let dtype = StoredDtype::from_name("I8").expect("a dtype of the format");
        Place { file, range, dtype, shape, stored: String::new() }
    }

    #[test]
    fn neighbours_are_read_at_once_and_far_tensors_apart() {
        let far = 100_000_000;
        let places =
            [place(0, far..far + 10), place(0, 5000..9000), place(0, 100..200), place(1, 9000..9001)];
        let layout = Layout::new(&places.iter().collect::<Vec<_>>());
        let blocks: Vec<_> = layout.pieces.iter().map(|piece| (piece.file, piece.blocks.clone())).collect();
        let far_block = far as u64 / 4096 * 4096;
        assert_eq!(blocks, [(0, 0..12288), (0, far_block..far_block + 4096), (1, 8192..12288)]);
        assert_eq!(layout.tensors[2], 100..200);
        assert_eq!(layout.tensors[1], 5000..9000);
        assert_eq!(layout.tensors[0].start, 12288 + (far - far_block as usize));
        assert_eq!(layout.bytes(), 12288 + 4096 + 4096);
    }
}
