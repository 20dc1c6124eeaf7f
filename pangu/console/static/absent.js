"use strict";
document.addEventListener("DOMContentLoaded", speak);
