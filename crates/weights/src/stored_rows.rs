//! Rows of a matrix that stays on disk: of an embedding table, a step needs as many as it has tokens.

use std::ops::Range;
use std::sync::Arc;

use cuvier_tensor::{Dtype, Tensor, WeightMatrix};

use crate::WeightsError;
use crate::checkpoint::{Checkpoint, matrix_format};
use crate::direct::{ALIGN, DirectFile, whole_blocks};
use crate::safetensors::known;

/// Rows closer to each other than this are read at once.
const GAP_BYTES: u64 = 32 << 10;
/// As long as they are together no longer than this, unless a single one is.
const RUN_BYTES: u64 = 1 << 20;

/// A matrix in a file, read row by row past the page cache.
pub struct StoredRows {
    file: Arc<DirectFile>,
    /// What errors call file and matrix.
    names: [String; 2],
    /// Where the first row begins.
    start: u64,
    dtype: Dtype,
    rows: usize,
    cols: usize,
}

impl Checkpoint {
    /// The matrix of that official name, to be read row by row. `None`: the checkpoint was not
    /// [opened to be streamed](Self::open_streamed), or the matrix has scales.
    ///
    /// # Errors
    /// If there is no such matrix.
    pub fn stored_rows(&self, name: &str) -> Result<Option<StoredRows>, WeightsError> {
        let place = self.place(name)?;
        let mapped = &self.files()[place.file];
        let (Some(file), Some(dtype @ (Dtype::BF16 | Dtype::F32)), &[rows, cols]) =
            (&mapped.direct, known(place.dtype), &place.shape[..])
        else {
            return Ok(None);
        };
        let names = [mapped.name.clone(), name.to_owned()];
        let start = place.range.start as u64;
        Ok(Some(StoredRows { file: Arc::clone(file), names, start, dtype, rows, cols }))
    }
}

impl StoredRows {
    /// How many there are.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Numbers of a row.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes of a row.
    pub fn row_bytes(&self) -> usize {
        self.cols * self.dtype.size()
    }

    /// Bytes of memory that reading `rows` rows takes, what is read included.
    pub fn reading_bytes(row_bytes: u64, rows: u64) -> u64 {
        rows * row_bytes + (RUN_BYTES.max(row_bytes) + 2 * ALIGN as u64)
    }

    /// The rows `wanted`, as a matrix of `[wanted.len(), cols]`.
    ///
    /// # Errors
    /// If the file cannot be read, was changed, or ends before.
    ///
    /// # Panics
    /// If they are not ascending, each once, or one does not exist.
    pub fn read(&self, wanted: &[u32]) -> Result<WeightMatrix, WeightsError> {
        assert!(wanted.is_sorted_by(|a, b| a < b), "rows in ascending order");
        let runs: Vec<&[u32]> = self.runs(wanted).collect();
        let longest = runs.iter().map(|run| self.blocks(run)).map(|blocks| blocks.end - blocks.start).max();
        let mut buffer = self.file.buffer(longest.unwrap_or(ALIGN as u64) as usize)?;
        let mut bytes = Vec::with_capacity(wanted.len() * self.row_bytes());
        for run in runs {
            let blocks = self.blocks(run);
            let out = &mut buffer.bytes_mut()[..(blocks.end - blocks.start) as usize];
            let got = blocks.start + self.file.read_blocks(blocks.clone(), out)? as u64;
            for &row in run {
                let Range { start, end } = self.bytes_of(row);
                if got < end {
                    return Err(self.file.ends_before(end));
                }
                bytes.extend_from_slice(&out[(start - blocks.start) as usize..(end - blocks.start) as usize]);
            }
        }
        self.matrix(bytes, wanted.len())
    }

    fn bytes_of(&self, row: u32) -> Range<u64> {
        assert!((row as usize) < self.rows, "row {row} of {}", self.rows);
        let len = self.row_bytes() as u64;
        let start = self.start + u64::from(row) * len;
        start..start + len
    }

    /// The blocks that have all rows of a run.
    fn blocks(&self, run: &[u32]) -> Range<u64> {
        whole_blocks(&(self.bytes_of(run[0]).start..self.bytes_of(run[run.len() - 1]).end))
    }

    /// What is read at once: rows that lie near each other.
    fn runs<'r>(&self, rows: &'r [u32]) -> impl Iterator<Item = &'r [u32]> {
        let mut first = rows.first().copied().unwrap_or_default();
        rows.chunk_by(move |&row, &next| {
            let is_near = self.bytes_of(next).start - self.bytes_of(row).end <= GAP_BYTES
                && self.bytes_of(next).end - self.bytes_of(first).start <= RUN_BYTES;
            if !is_near {
                first = next;
            }
            is_near
        })
    }

    fn matrix(&self, bytes: Vec<u8>, rows: usize) -> Result<WeightMatrix, WeightsError> {
        let [file, name] = &self.names;
        let entry = |problem: String| WeightsError::Entry { file: file.clone(), name: name.clone(), problem };
        let tensor = Tensor::from_bytes(bytes, self.dtype, vec![rows, self.cols]);
        let tensor = tensor.map_err(|error| entry(error.to_string()))?;
        let format = matrix_format(tensor, || Err(entry("has no scales".to_owned())))?;
        let format = format.ok_or_else(|| entry("is no matrix".to_owned()))?;
        WeightMatrix::new(format).map_err(|error| entry(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use cuvier_tensor::WeightFormat;

    use super::*;
    use crate::{ModelConfig, Precision, test_shapes};

    /// A checkpoint, streamed, and the bytes of its embedding.
    fn embedding(config: ModelConfig, precision: Precision) -> (tempfile::TempDir, StoredRows, Vec<u8>) {
        let (home, checkpoint) = test_shapes::written(&config, |options| options.precision = precision);
        let whole = checkpoint.tensor("embed.weight").expect("it is there");
        let streamed = Checkpoint::open_streamed(home.path()).expect("it opens");
        let rows = streamed.stored_rows("embed.weight").expect("it is there").expect("no scales");
        (home, rows, whole.bytes().to_vec())
    }

    fn bytes(matrix: &WeightMatrix) -> &[u8] {
        match matrix.format() {
            WeightFormat::Bf16(tensor) | WeightFormat::F32(tensor) => tensor.bytes(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn any_rows_are_those_of_the_whole_matrix() {
        let wide = ModelConfig { vocab_size: 600, hidden_size: 2304, ..test_shapes::tiny() };
        for (config, precision) in [
            (test_shapes::tiny(), Precision::Official),
            (test_shapes::tiny(), Precision::F32),
            (wide, Precision::Official),
        ] {
            let (_home, rows, whole) = embedding(config, precision);
            let n = rows.rows() as u32;
            let all: Vec<u32> = (0..n).collect();
            let far: Vec<u32> = all.iter().copied().filter(|row| row % 23 == 5).collect();
            let mixed: Vec<u32> = all.iter().copied().filter(|row| row % 7 < 2 || *row == n - 1).collect();
            for wanted in [&all[..], &far, &mixed, &[n - 1], &[0], &[]] {
                let read = rows.read(wanted).expect("it is there");
                let len = rows.row_bytes();
                let want: Vec<u8> =
                    wanted.iter().flat_map(|&row| &whole[row as usize * len..][..len]).copied().collect();
                assert!((read.rows(), read.cols()) == (wanted.len(), rows.cols()) && bytes(&read) == want);
            }
        }
    }

    #[test]
    fn a_file_that_was_cut_is_an_error_that_names_it() {
        let (home, rows, _) = embedding(test_shapes::tiny(), Precision::Official);
        let file = home.path().join(&rows.names[0]);
        std::fs::File::options().write(true).open(&file).expect("it opens").set_len(100).expect("it is cut");
        let error = rows.read(&[0, 1]).expect_err("nothing is there").to_string();
        assert!(error.contains(&rows.names[0]), "{error}");
    }
}
