// SPDX-License-Identifier: GPL-2.0
//~ E0277: a bio that was not taken stays on its CPU
fn submit_bio(bio: Incoming<'_>) {
    needs_send(bio); //~ bad
    let _ = bio.pass(); //~ good
}
