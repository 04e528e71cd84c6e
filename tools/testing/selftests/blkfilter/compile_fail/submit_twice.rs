// SPDX-License-Identifier: GPL-2.0
//~ E0382: our own bio is submitted once
fn read(cx: &Context<'_, Good>, bio: NewBio<'_>) -> Result {
    cx.submit_and_wait(bio)?;
    cx.submit_and_wait(bio)?; //~ bad
    Ok(())
}
