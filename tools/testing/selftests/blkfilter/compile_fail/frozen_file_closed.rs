// SPDX-License-Identifier: GPL-2.0
//~ E0505: a device is thawed before it is closed
fn freeze(file: BdevFile) -> Result {
    let frozen = file.freeze()?;
    drop(file); //~ bad
    drop(frozen);
    Ok(())
}
