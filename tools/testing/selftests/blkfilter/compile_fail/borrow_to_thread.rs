// SPDX-License-Identifier: GPL-2.0
//~ E0277: a view of a bio stays where it is
fn look(bio: &Owned) {
    needs_send::<&Bio>(bio); //~ bad
    let _ = bio.op(); //~ good
}
