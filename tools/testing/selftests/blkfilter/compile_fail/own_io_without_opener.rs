// SPDX-License-Identifier: GPL-2.0
//~ E0061: own I/O is done on behalf of a bio
fn process(cx: &Context<'_, Good>, owned: &Owned, own: NewBio<'_>) -> Result {
    cx.submit_and_wait(own) //~ bad
    cx.submit_and_wait(owned, own) //~ good
}
