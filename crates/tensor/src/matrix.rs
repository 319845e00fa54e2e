//! Rows of numbers in memory: the activations between operations.

/// An owned row-major matrix; `[rows, cols]`.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Matrix<T = f32> {
    data: Vec<T>,
    cols: usize,
}

/// A borrowed row-major matrix; rows may be further apart than they are long.
#[derive(Clone, Copy, Debug)]
pub struct MatRef<'a, T = f32> {
    data: &'a [T],
    rows: usize,
    cols: usize,
    stride: usize,
}

/// A mutably borrowed row-major matrix, without gaps between rows.
#[derive(Debug)]
pub struct MatMut<'a, T = f32> {
    data: &'a mut [T],
    cols: usize,
}

impl<T: Clone + Default> Matrix<T> {
    /// A matrix of default values (zeros).
    pub fn zeros(rows: usize, cols: usize) -> Self {
        Self { data: vec![T::default(); rows * cols], cols }
    }
}

impl<T: Copy> Matrix<T> {
    /// Takes row-major `data`.
    ///
    /// # Panics
    /// If `data` is not a whole number of rows, or `cols` is 0 and `data` is not empty.
    pub fn from_vec(data: Vec<T>, cols: usize) -> Self {
        assert!(data.is_empty() || (cols > 0 && data.len().is_multiple_of(cols)), "{} / {cols}", data.len());
        Self { data, cols }
    }

    /// Makes rows of `cols` numbers of the same numbers: for views per head and back.
    ///
    /// # Panics
    /// As [`Matrix::from_vec`].
    pub fn reshape(&mut self, cols: usize) {
        *self = Self::from_vec(std::mem::take(&mut self.data), cols);
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.data.len().checked_div(self.cols).unwrap_or(0)
    }

    /// Numbers per row.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// All numbers, row major.
    pub fn data(&self) -> &[T] {
        &self.data
    }

    /// All numbers, row major.
    pub fn data_mut(&mut self) -> &mut [T] {
        &mut self.data
    }

    /// Row `row`.
    pub fn row(&self, row: usize) -> &[T] {
        &self.data[row * self.cols..][..self.cols]
    }

    /// Row `row`.
    pub fn row_mut(&mut self, row: usize) -> &mut [T] {
        &mut self.data[row * self.cols..][..self.cols]
    }

    /// A view of the whole.
    pub fn view(&self) -> MatRef<'_, T> {
        MatRef::new(&self.data, self.rows(), self.cols)
    }

    /// A mutable view of the whole.
    pub fn view_mut(&mut self) -> MatMut<'_, T> {
        MatMut::new(&mut self.data, self.cols)
    }

    /// The numbers themselves.
    pub fn into_vec(self) -> Vec<T> {
        self.data
    }
}

impl<'a, T: Copy> MatRef<'a, T> {
    /// `rows` rows of `cols` numbers, without gaps.
    ///
    /// # Panics
    /// If `data` does not hold exactly that.
    pub fn new(data: &'a [T], rows: usize, cols: usize) -> Self {
        assert_eq!(data.len(), rows * cols, "{rows} rows of {cols}");
        Self { data, rows, cols, stride: cols }
    }

    /// Number of rows.
    pub fn rows(self) -> usize {
        self.rows
    }

    /// Numbers per row.
    pub fn cols(self) -> usize {
        self.cols
    }

    /// All numbers from the first row's first to the last row's last, gaps between rows included, and how far apart
    /// rows begin.
    pub fn parts(self) -> (&'a [T], usize) {
        (self.data, self.stride)
    }

    /// Row `row`.
    pub fn row(self, row: usize) -> &'a [T] {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        &self.data[row * self.stride..][..self.cols]
    }

    /// All rows, in order.
    pub fn iter(self) -> impl Iterator<Item = &'a [T]> {
        (0..self.rows).map(move |row| self.row(row))
    }

    /// The columns `start..start + cols` of every row.
    ///
    /// # Panics
    /// If they do not exist.
    pub fn columns(self, start: usize, cols: usize) -> Self {
        assert!(start + cols <= self.cols, "columns {start}+{cols} of {}", self.cols);
        let data = if self.rows == 0 { self.data } else { &self.data[start..] };
        Self { data, cols, ..self }
    }

    /// The same numbers in rows of `cols`: splits every row into `self.cols() / cols` rows, for per-head views.
    ///
    /// # Panics
    /// If rows have gaps or are not a whole number of new rows.
    pub fn split_rows(self, cols: usize) -> Self {
        assert!(self.stride == self.cols && self.cols.is_multiple_of(cols), "{} into {cols}", self.cols);
        Self::new(self.data, self.rows * (self.cols / cols), cols)
    }
}

impl<'a, T> MatMut<'a, T> {
    /// Rows of `cols` numbers.
    ///
    /// # Panics
    /// If `data` is not a whole number of rows.
    pub fn new(data: &'a mut [T], cols: usize) -> Self {
        assert!(data.is_empty() || (cols > 0 && data.len().is_multiple_of(cols)), "{} / {cols}", data.len());
        Self { data, cols }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.data.len().checked_div(self.cols).unwrap_or(0)
    }

    /// Numbers per row.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Row `row`.
    pub fn row_mut(&mut self, row: usize) -> &mut [T] {
        &mut self.data[row * self.cols..][..self.cols]
    }

    /// All numbers, row major.
    pub fn into_data(self) -> &'a mut [T] {
        self.data
    }

    /// A shorter borrow of the same rows.
    pub fn reborrow(&mut self) -> MatMut<'_, T> {
        MatMut { data: self.data, cols: self.cols }
    }
}
