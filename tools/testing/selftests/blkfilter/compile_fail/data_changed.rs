// SPDX-License-Identifier: GPL-2.0
//~ E0599: what is being written is not changed
fn change(bio: Owned) -> Result {
    let data = bio.data().ok_or(EINVAL)?;
    data.write(0, &[0])?; //~ bad
    data.read(0, &mut [0])?; //~ good
    Ok(())
}
