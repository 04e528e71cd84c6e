// SPDX-License-Identifier: GPL-2.0
//~ unused_must_use: a guard that is dropped at once guards nothing
fn freeze(file: &BdevFile) -> Result {
    file.freeze()?; //~ bad
    let frozen = file.freeze()?; //~ good
    Ok(())
}
