"""The status page: what it shows, its drawing, and who serves it. It is made of the report, and changes nothing.

statuspage  serves it
plugindesk  what the plugin tells for it
markup      HTML, whole and in the parts that change (pure)
topology    the drawing (pure)
overview    what is shown, put together (pure)
"""
