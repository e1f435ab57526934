"""What the HTML report is made of: its words, tables, charts, style and script. `kfdeploy.page` puts them together."""
