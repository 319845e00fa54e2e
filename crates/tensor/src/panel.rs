//! Weights as eight-bit integers, in the order in which products read them.

/// Columns that share a unit.
pub const PANEL_COLS: usize = 128;
/// Rows of a panel.
pub const PANEL_ROWS: usize = 16;

/// Sixteen rows and 128 columns of weights: `code * unit` of its row each. Made in memory from what a checkpoint
/// stores; no file has it.
///
/// Columns come in quads of every second one, so that they meet activations in the order of FP4 nibbles: quad `8 i + j`
/// holds the columns `32 i + 8 j + {0, 2, 4, 6}` for `j` below 4, then `32 i + 8 (j - 4) + {1, 3, 5, 7}`.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Int8Panel {
    /// `[quads, rows, 4]`; zeros where rows or columns do not exist.
    pub codes: [[[i8; 4]; PANEL_ROWS]; PANEL_COLS / 4],
    /// `[rows]`.
    pub units: [f32; PANEL_ROWS],
}

impl Int8Panel {
    /// Zeros.
    pub const ZERO: Self = Self { codes: [[[0; 4]; PANEL_ROWS]; PANEL_COLS / 4], units: [0.0; PANEL_ROWS] };
}

/// How many panels a matrix takes: strips of sixteen rows, one after the other, each from the first column on.
pub fn panels_of(rows: usize, cols: usize) -> usize {
    rows.div_ceil(PANEL_ROWS) * cols.div_ceil(PANEL_COLS)
}

/// The column that stands at byte `byte` of quad `quad`.
pub fn panel_column(quad: usize, byte: usize) -> usize {
    32 * (quad / 8) + 8 * (quad % 4) + 2 * byte + quad / 4 % 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_column_stands_in_one_place() {
        let mut columns: Vec<_> =
            (0..PANEL_COLS / 4).flat_map(|q| (0..4).map(move |b| panel_column(q, b))).collect();
        assert_eq!(columns[..8], [0, 2, 4, 6, 8, 10, 12, 14]);
        assert_eq!(columns[16..20], [1, 3, 5, 7]);
        columns.sort_unstable();
        assert_eq!(columns, (0..PANEL_COLS).collect::<Vec<_>>());
    }

    #[test]
    fn a_panel_is_a_byte_for_a_weight_and_its_units() {
        assert_eq!(size_of::<Int8Panel>(), PANEL_ROWS * PANEL_COLS + 4 * PANEL_ROWS);
        assert_eq!((panels_of(16, 128), panels_of(17, 129)), (1, 4));
    }
}
