// SPDX-License-Identifier: GPL-2.0
//~ E0382: our own bio is submitted once
fn read(cx: &Context<'_, Good>, owned: &Owned, bio: NewBio<'_>) -> Result {
    cx.submit_and_wait(owned, bio)?;
    cx.submit_and_wait(owned, bio)?; //~ bad
    Ok(())
}
