// SPDX-License-Identifier: GPL-2.0
//~ E0382: own I/O is done while its opener waits
fn process(cx: &Context<'_, Good>, owned: Owned, own: NewBio<'_>) {
    owned.resubmit(); //~ bad
    let _ = cx.submit_and_wait(&owned, own); //~ bad
    let _ = cx.submit_and_wait(&owned, own); //~ good
    owned.resubmit(); //~ good
}
