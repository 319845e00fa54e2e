use super::*;
use crate::testing::{assert_gradient, differences, drawn};

#[test]
fn each_row_of_the_table_gathers_the_gradients_of_the_tokens_that_looked_it_up() {
    for cols in [1, 15, 16, 17, 33] {
        let ids = [3, 0, 3, 3, 4];
        let (dout, table) = (drawn(ids.len(), cols, 1), drawn(6, cols, 2));
        let mut dtable = drawn(6, cols, 3);
        let before = dtable.clone();
        embed_backward(&ids, dout.view(), dtable.view_mut());
        let loss = |table: &[f64]| -> f64 {
            let of = |(&id, dout): (&u32, &[f32])| -> f64 {
                let row = &table[id as usize * cols..][..cols];
                row.iter().zip(dout).map(|(x, &d)| x * f64::from(d)).sum()
            };
            ids.iter().zip(dout.view().iter()).map(of).sum()
        };
        let exact = differences(table.data(), loss);
        let exact: Vec<f64> = exact.iter().zip(before.data()).map(|(d, &b)| d + f64::from(b)).collect();
        assert_gradient(dtable.data(), &exact, "table");
        for id in [1, 2, 5] {
            assert_eq!(dtable.row(id), before.row(id), "nobody looked up {id}");
        }
    }
}

#[test]
fn no_tokens_change_nothing() {
    let mut dtable = drawn(2, 3, 1);
    embed_backward(&[], MatRef::new(&[], 0, 0), dtable.view_mut());
    assert_eq!(dtable, drawn(2, 3, 1));
}
